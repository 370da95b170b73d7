"""HTTP to slurmrestd: versions, tokens, and what a failure says about the request.

slurmrestd's habits that this hides: 404 in plain text for a version it does not speak; 401 without a token, 511
(or 500) with error 1007 for a bad one; the useful words of a failure in `errors`, whatever the status.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlencode

from gateway.core.cost import Cost
from gateway.errors import SchedulerUnavailable
from gateway.slurm.problems import Problem, after_question, from_body
from gateway.slurm.tokens import Tokens
from gateway.slurm.wire import SAFE, AnswerLost, NotSent, Response, Wire

VERSIONS: Final = ("v0.0.45", "v0.0.44", "v0.0.43", "v0.0.42", "v0.0.41")
Api = Literal["slurm", "slurmdb"]
Params = Sequence[tuple[str, str]]

_NO_URL: Final = "find requested URL"  # "Unable find …" before 26.05
_FAILED: Final = 400
PATIENCE: Final = 10.0
_CONNECTIONS: Final = 16
_KEPT_ALIVE: Final = 5.0


class Refused(Exception):
    """slurmrestd answered with errors."""

    def __init__(self, problem: Problem, body: Mapping[str, Any]) -> None:
        super().__init__(problem.words)
        self.problem = problem
        self.body = body


class RestClient:
    """One slurmrestd, at `http://host:port` or `unix:/path/of/socket`."""

    def __init__(
        self,
        url: str,
        tokens: Tokens,
        *,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
        versions: Sequence[str] = VERSIONS,
        cost: Cost | None = None,
        ca_file: Path | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """`ca_file`: who signs for an https address, in place of the system's CAs. Seconds for all times.

        `patience`: so long one that answered a moment ago may be away, as at a restart, before a caller hears of it.
        """
        self._where = url
        self._patience = patience
        self._was_there = False
        self._release = ""
        self._tokens = tokens
        self._cost = cost or Cost()
        self._wire = Wire(
            url,
            timeout=timeout,
            connect_timeout=connect_timeout,
            connections=_CONNECTIONS,
            idle=_KEPT_ALIVE,
            ca_file=ca_file,
        )
        self._versions = tuple(versions)
        self._version: str | None = None
        self._outdated = False  # the version may not be the newest any more
        self._discovery = asyncio.Lock()

    @property
    def version(self) -> str | None:
        """The version in use, once one was found."""
        return self._version

    async def close(self) -> None:
        await self._wire.close()

    def renew(self) -> None:
        """Make new tokens, with the key as it is now."""
        self._tokens.forget()

    async def get(self, api: Api, path: str, *, user: str, params: Params = ()) -> dict[str, Any]:
        """Ask. Refused, or SchedulerUnavailable."""
        try:
            return await self.send("GET", api, path, user=user, params=params)
        except AnswerLost as lost:
            raise SchedulerUnavailable(f"{self._where} did not answer: {lost}") from lost

    async def send(
        self,
        method: str,
        api: Api,
        path: str,
        *,
        user: str,
        params: Params = (),
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Send one request, in the newest version that slurmrestd speaks.

        AnswerLost: it may have been carried out. SchedulerUnavailable: it was not. Refused: slurmrestd said no.
        A refused token and a version that went away are repaired here, once: neither was carried out.
        """
        version = await self._find_version(user)
        renewed = moved = False
        while True:
            status, text = await self._exchange(method, f"/{api}/{version}{path}", user=user, params=params, body=body)
            answer = _json(text)
            if status == 404 and answer is None and _NO_URL in text:  # noqa: PLR2004
                if moved:
                    raise SchedulerUnavailable(f"{self._where} has no {method} /{api}/{version}{path}")
                moved = True
                version = await self._find_version(user, instead_of=version)
                continue
            problem = _problem(status, text, answer)
            if problem is None:
                self._notice(answer or {})
                return answer or {}
            if not problem.auth:
                raise Refused(problem, answer or {})
            if renewed:
                raise after_question(problem, f"be asked at {self._where}")
            renewed = True
            self._tokens.forget()

    def _notice(self, answer: Mapping[str, Any]) -> None:
        """A slurmrestd of another release than before may speak a newer version: the next call looks."""
        meta = answer.get("meta") or {}
        release = str((meta.get("slurm") or meta.get("Slurm") or {}).get("release") or "")
        if release and self._release and release != self._release:
            self._outdated = True
        self._release = release or self._release

    async def _find_version(self, user: str, instead_of: str | None = None) -> str:
        """The version to ask in. The one before stays in use, and is told, until another is found."""
        if self._version is not None and self._version != instead_of and not self._outdated:
            return self._version
        async with self._discovery:
            if self._version is not None and self._version != instead_of and not self._outdated:
                return self._version  # another caller found it meanwhile
            for version in self._versions:
                if await self._speaks(version, user):
                    self._version, self._outdated = version, False
                    return version
        raise SchedulerUnavailable(
            f"{self._where} speaks none of {', '.join(self._versions)}",
            hint="Slurm 24.05 to 26.05 do. Is this address slurmrestd's?",
        )

    async def _speaks(self, version: str, user: str, *, renewed: bool = False) -> bool:
        try:
            status, text = await self._exchange("GET", f"/slurm/{version}/ping/", user=user)
        except AnswerLost as lost:
            raise SchedulerUnavailable(f"{self._where} did not answer: {lost}") from lost
        answer = _json(text)
        if status == 404 and answer is None:  # noqa: PLR2004
            return False
        problem = _problem(status, text, answer)
        if problem is not None and problem.auth:
            self._tokens.forget()
            if not renewed:
                return await self._speaks(version, user, renewed=True)
            raise after_question(problem, f"be asked at {self._where}")
        return answer is not None

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        user: str,
        params: Params = (),
        body: Mapping[str, Any] | None = None,
    ) -> tuple[int, str]:
        headers = [("X-SLURM-USER-NAME", user), ("X-SLURM-USER-TOKEN", self._tokens.token(user))]
        target = f"{self._wire.prefix}{path}" + (f"?{urlencode(params)}" if params else "")
        data = json.dumps(body).encode() if body is not None else None
        call = f"{method} {_route(path)}"
        response = await self._patiently(call, method, target, headers, data)
        self._cost.asked(call, "ok" if response.status < _FAILED else "refused", len(response.text))
        return response.status, response.text

    async def _patiently(
        self, call: str, method: str, target: str, headers: Sequence[tuple[str, str]], data: bytes | None
    ) -> Response:
        """One exchange, across a restart of slurmrestd: what did not arrive, or may be done twice, is sent again."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._patience if self._was_there else 0.0)
        pause = 0.05
        while True:
            try:
                response = await self._wire.request(method, target, headers, data)
            except NotSent as error:
                self._cost.asked(call, "unanswered", 0)
                if loop.time() >= deadline:
                    self._was_there = False
                    raise SchedulerUnavailable(
                        f"slurmrestd at {self._where} cannot be reached: {error}",
                        hint="Is rest_url right, and is slurmrestd running?",
                    ) from error
            except AnswerLost:
                self._cost.asked(call, "unanswered", 0)
                if method not in SAFE or loop.time() >= deadline:
                    raise
            else:
                self._was_there = True
                return response
            await asyncio.sleep(pause)
            pause = min(1.0, 2 * pause)


def _route(path: str) -> str:
    """`/slurm/v0.0.45/job/123` is a call of `job`, `/slurmdb/v0.0.45/jobs/` of `slurmdb/jobs`."""
    api, _, *parts = path.strip("/").split("/")
    named = [part for part in parts if not part.isdecimal()]
    return "/".join(named if api == "slurm" else [api, *named])


def _json(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _problem(status: int, text: str, answer: Mapping[str, Any] | None) -> Problem | None:
    found = from_body(dict(answer)) if answer is not None else None
    if found is not None:
        return found
    if status in {401, 403, 407, 511}:
        return Problem(1007, f"HTTP {status}: {text.strip()[:200] or 'authentication failure'}")
    if status >= _FAILED or answer is None:
        # A proxy or slurmrestd itself in trouble: what became of the request is not said
        return Problem(None, f"HTTP {status}: {text.strip()[:200]}")
    return None
