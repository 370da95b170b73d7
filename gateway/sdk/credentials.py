"""What a sign-in left: tokens in a file of one's own, renewed before they end, one process at a time."""

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from gateway import durable
from gateway.errors import Unauthenticated

EARLY = 30.0
"""Seconds before its end at which a token is renewed."""

TIMEOUT = 15.0
_LOOK_AGAIN = 0.05


class Stored(BaseModel):
    """One gateway's: the token that calls carry, when it ends (epoch seconds), and how to get the next one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    bearer: str
    expires_at: float
    grant: Literal["refresh_token", "client_credentials"] = "refresh_token"
    refresh_token: str | None = None
    token_endpoint: str
    revocation_endpoint: str | None = None
    client_id: str
    client_secret: str | None = None
    scope: str = ""
    resource: str | None = None

    @property
    def renewable(self) -> bool:
        return self.refresh_token is not None or self.grant == "client_credentials"

    def form(self) -> dict[str, str]:
        """What to ask the token endpoint for."""
        asked = {"grant_type": self.grant, "client_id": self.client_id}
        if self.grant == "refresh_token":
            asked["refresh_token"] = self.refresh_token or ""
        elif self.scope:
            asked["scope"] = self.scope
        return asked | ({"resource": self.resource} if self.resource else {})

    @property
    def secret(self) -> httpx.Auth:
        return httpx.BasicAuth(self.client_id, self.client_secret) if self.client_secret else httpx.Auth()

    def renewed(self, told: Mapping[str, Any], now: float) -> "Stored":
        """With what the token endpoint answered."""
        changed = {"bearer": bearer_of(told), "expires_at": now + float(told.get("expires_in", 300))}
        if told.get("refresh_token"):
            changed["refresh_token"] = told["refresh_token"]
        return self.model_copy(update=changed)


def bearer_of(told: Mapping[str, Any]) -> str:
    """The token that the gateway can read: the access token if it is a JWT, else the ID token."""
    access = str(told.get("access_token", ""))
    return access if access.count(".") == 2 or "id_token" not in told else str(told["id_token"])  # noqa: PLR2004


def file() -> Path:
    """`credentials.json` in the user's configuration; 0600."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "sluice/credentials.json"


def load(url: str) -> Stored | None:
    """What a sign-in at this gateway left, if there was one."""
    try:
        return Stored.model_validate(_all()[url.rstrip("/")])
    except (KeyError, ValidationError):
        return None


def put(url: str, stored: Stored | None) -> None:
    """Keep it, or with None forget it; in turn with those who renew what they have of other gateways."""
    with _lock(fcntl.LOCK_EX):
        save(url, stored)


def save(url: str, stored: Stored | None) -> None:
    """The same, for who has the turn: of two who read and write the file at once one would be lost."""
    path = file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = _all()
    found.pop(url.rstrip("/"), None)
    if stored is not None:
        found[url.rstrip("/")] = stored.model_dump(exclude_none=True)
    durable.replace(path, json.dumps(found, indent=1).encode())


def _all() -> dict[str, Any]:
    try:
        found = json.loads(file().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Shown(httpx.Auth):
    """A token that stays, on every request of another library; without one, nothing: a socket needs none."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        else:
            request.headers.pop("Authorization", None)
        yield request


class Renewing(httpx.Auth):
    """Puts the token on every request, a new one before the old one ends: so a long wait outlives a short token.

    A refresh token may often be used only once, so processes that share the file take turns.
    """

    def __init__(self, url: str, stored: Stored) -> None:
        self._url, self._stored = url, stored

    @property
    def token(self) -> str:
        return self._stored.bearer

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._stale():
            self._renew()
        response = yield self._signed(request)
        if response.status_code == httpx.codes.UNAUTHORIZED and self._stored.renewable and self._renew():
            yield self._signed(request)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        if self._stale():
            await self._renew_async()
        response = yield self._signed(request)
        if response.status_code == httpx.codes.UNAUTHORIZED and self._stored.renewable and await self._renew_async():
            yield self._signed(request)

    def _signed(self, request: httpx.Request) -> httpx.Request:
        request.headers["Authorization"] = f"Bearer {self._stored.bearer}"
        return request

    def _stale(self) -> bool:
        return self._stored.renewable and time.time() > self._stored.expires_at - EARLY

    def _renew(self) -> bool:
        """Whether there is another token now."""
        before = self._stored.bearer
        with _lock(fcntl.LOCK_EX):
            if self._reread() == before:
                try:
                    with httpx.Client(timeout=TIMEOUT) as http:
                        answer = http.post(
                            self._stored.token_endpoint, data=self._stored.form(), auth=self._stored.secret
                        )
                except httpx.TransportError:
                    return False
                self._take(answer)
        return self._stored.bearer != before

    async def _renew_async(self) -> bool:
        """The same, without keeping the loop from its work."""
        before = self._stored.bearer
        async with _turn():
            if self._reread() == before:
                try:
                    async with httpx.AsyncClient(timeout=TIMEOUT) as http:
                        answer = await http.post(
                            self._stored.token_endpoint, data=self._stored.form(), auth=self._stored.secret
                        )
                except httpx.TransportError:
                    return False
                self._take(answer)
        return self._stored.bearer != before

    def _reread(self) -> str:
        """Another process may have renewed it."""
        self._stored = load(self._url) or self._stored
        return self._stored.bearer

    def _take(self, answer: httpx.Response) -> None:
        """Keep what it gives. A provider that is away or busy gives nothing: the old token may be good for a while."""
        if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            return
        told = _read(answer)
        if answer.is_error or "access_token" not in told:
            why = told.get("error_description") or told.get("error") or answer.status_code
            raise Unauthenticated(f"you are signed out: {why}", hint="Sign in again: sluice login")
        self._stored = self._stored.renewed(told, time.time())
        save(self._url, self._stored)


def _read(answer: httpx.Response) -> dict[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


@contextlib.contextmanager
def _lock(how: int) -> Iterator[None]:
    path = file().with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


@contextlib.asynccontextmanager
async def _turn() -> AsyncGenerator[None, None]:
    while True:
        with contextlib.suppress(BlockingIOError), _lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
            return
        await asyncio.sleep(_LOOK_AGAIN)
