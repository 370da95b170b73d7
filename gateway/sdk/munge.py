"""On hosts of a cluster: MUNGE says who we are, so that there is neither a password nor a token to copy."""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator, Generator
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from gateway.model.auth import MUNGE_PURPOSE, AuthView, MungeToken, MungeView
from gateway.sdk.wire import API

EARLY = 60.0
"""Seconds before its end at which a token is replaced."""

TTL = 60
_TIMEOUT = 15.0


def present() -> bool:
    """Whether this machine has MUNGE."""
    return shutil.which("munge") is not None


class Munged(httpx.Auth):
    """Asks the gateway whether it takes MUNGE, shows it a credential, and puts the token it gives on every request.

    Where the gateway does not, or MUNGE does not answer, requests go without: the gateway says then what it wants.
    """

    def __init__(self, url: str, base: str) -> None:
        self._audience, self._base = urlsplit(url).netloc, base.rstrip("/")
        self._until = 0.0
        self._asked = False
        self.token: str | None = None

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._stale():
            self._asked = True
            response = yield self._question(request)
            response.read()
            if (view := _view(response)) is not None and (credential := self._credential(view)) is not None:
                answer = yield self._showing(request, credential)
                answer.read()
                self._take(answer)
        yield self._signed(request)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        if self._stale():
            self._asked = True
            response = yield self._question(request)
            await response.aread()
            if (view := _view(response)) is not None:
                credential = await asyncio.to_thread(self._credential, view)
                if credential is not None:
                    answer = yield self._showing(request, credential)
                    await answer.aread()
                    self._take(answer)
        yield self._signed(request)

    def _stale(self) -> bool:
        """There is no token yet, or soon none any more; a gateway that gave none is asked once."""
        return not self._asked if self.token is None else time.time() > self._until - EARLY

    def _question(self, request: httpx.Request) -> httpx.Request:
        return httpx.Request("GET", f"{self._base}{API}/auth", extensions=request.extensions)

    def _showing(self, request: httpx.Request, credential: str) -> httpx.Request:
        body = {"credential": credential}
        return httpx.Request("POST", f"{self._base}{API}/auth/munge", json=body, extensions=request.extensions)

    def _credential(self, view: MungeView) -> str | None:
        """That only the gateway's uid can decode, and that says for which gateway it is."""
        text = json.dumps({"purpose": MUNGE_PURPOSE, "audience": self._audience})
        argv = ["munge", f"--restrict-uid={view.uid}", f"--ttl={TTL}"]
        try:
            done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def _take(self, answer: httpx.Response) -> None:
        try:
            told = MungeToken.model_validate_json(answer.content)
        except ValidationError:
            self.token = None
            return
        self.token, self._until = told.token, told.expires_at.timestamp()

    def _signed(self, request: httpx.Request) -> httpx.Request:
        if self.token is not None:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def _view(response: httpx.Response) -> MungeView | None:
    try:
        return AuthView.model_validate_json(response.content).munge
    except ValidationError:
        return None
