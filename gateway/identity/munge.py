"""People on other hosts of a cluster, known by MUNGE: what its daemon vouches for there, ours decodes here.

A credential says whose process made it. It is for one gateway alone: only our uid can decode it, its text names the
gateway as its maker knows it, it is good for a minute, and once. What it gives is a bearer token of a few minutes that
any process of the gateway knows by its seal; nothing of it is kept, and who the person is is looked up with each use.
"""

import asyncio
import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gateway.core.context import Gateway
from gateway.errors import Unauthenticated, Unavailable
from gateway.identity.seal import Seal
from gateway.model.auth import MUNGE_PURPOSE, MungeToken, MungeView
from gateway.settings import MungeSettings
from gateway.store import signins
from gateway.store.signins import SignIn

PREFIX = "munge."
LIFE = timedelta(minutes=10)
KEPT = timedelta(minutes=10)
TIMEOUT = 10.0
LONGEST = 4096
#: What unmunge ends with where the credential is at fault (munge.h): bad, invalid, expired, replayed, for another.
_REFUSALS = range(8, 19)
_HINT = "Try again: sluice makes a new one each time."
_WHO = re.compile(r"(?P<name>\S+) \((?P<uid>\d+)\)")


@dataclass(frozen=True)
class Vouched:
    """Whose process made a credential, and when that is over."""

    name: str
    uid: int
    until: datetime


class Munge:
    """MUNGE as this gateway uses it."""

    def __init__(self, gateway: Gateway, settings: MungeSettings, seal: Seal) -> None:
        self._gateway, self._settings, self._seal = gateway, settings, seal
        self.cluster, _ = gateway.settings.cluster(settings.cluster)

    @property
    def view(self) -> MungeView:
        """What makers of credentials must know."""
        uid = self._settings.uid
        return MungeView(uid=os.geteuid() if uid is None else uid)

    async def admit(self, credential: str) -> tuple[MungeToken, Vouched]:
        """What a credential gives, once. Unauthenticated says what is wrong with it."""
        name, uid, text = await self._decode(credential)
        try:
            said = json.loads(text)
            right = said["purpose"] == MUNGE_PURPOSE and said["audience"] in self._settings.hosts
        except (ValueError, KeyError, TypeError):
            right = False
        if not right:
            raise Unauthenticated(
                "the MUNGE credential is not for this gateway",
                hint="SLUICE_URL must name it as identity.munge.hosts does.",
            )
        now = self._gateway.clock()
        spent = SignIn(state=credential, nonce="", verifier="", browser="", to="", created_at=now)
        if not await self._gateway.db.write(signins.spend, spent, now - KEPT):
            raise Unauthenticated("the MUNGE credential was used already", hint=_HINT)
        vouched = Vouched(name, uid, now + LIFE)
        words = ("munge", name, str(uid), str(round(vouched.until.timestamp())))
        return MungeToken(token=PREFIX + self._seal.close(*words), expires_at=vouched.until), vouched

    def open(self, text: str) -> Vouched | None:
        """Who has a token of ours, if it is one and not over."""
        match self._seal.open(text.removeprefix(PREFIX)):
            case ["munge", name, uid, until] if int(until) > self._gateway.clock().timestamp():
                return Vouched(name, int(uid), datetime.fromtimestamp(int(until), UTC))
        return None

    async def _decode(self, credential: str) -> tuple[str, int, str]:
        """Name, uid and text. Unavailable if MUNGE cannot be asked here."""
        if len(credential) > LONGEST or not credential.startswith("MUNGE:"):
            raise Unauthenticated("this is no MUNGE credential")
        argv = self._settings.unmunge
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
        except OSError as error:
            raise Unavailable(f"{argv[0]} cannot be run here: {error.strerror}") from error
        try:
            async with asyncio.timeout(TIMEOUT):
                out, told = await process.communicate(credential.encode())
        except TimeoutError as error:
            raise Unavailable("MUNGE did not answer in time") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        head, _, text = out.decode("utf-8", "replace").partition("\n\n")
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in head.splitlines())}
        status, who = fields.get("STATUS", ""), _WHO.fullmatch(fields.get("UID", ""))
        if process.returncode in _REFUSALS:
            why = status or told.decode("utf-8", "replace").strip()[-200:]
            raise Unauthenticated(f"MUNGE does not vouch for it: {why}", hint=_HINT)
        if process.returncode != 0:
            why = status or told.decode("utf-8", "replace").strip()[-200:]
            raise Unavailable(f"MUNGE cannot be asked here: {why or process.returncode}")
        if who is None or not who["name"].strip("?"):
            raise Unauthenticated("this machine knows no user with the uid of the MUNGE credential")
        restriction = _WHO.fullmatch(fields.get("UID_RESTRICTION", ""))
        if restriction is None or int(restriction["uid"]) != self.view.uid:
            raise Unauthenticated("the MUNGE credential is not for this gateway alone", hint=_HINT)
        return who["name"], int(who["uid"]), text
