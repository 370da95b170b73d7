# Made from gateway/sdk/_async/transport.py by `python gateway/sdk/generate.py`: change that one.
"""Sends calls to the gateway: retries what may be retried, and turns error answers into our errors."""

import os
from collections.abc import Generator
from contextlib import closing
from typing import Any

import httpx
from tenacity import Retrying

from gateway.sdk import credentials, defaults, trust, wire
from gateway.sdk.munge import Munged
from gateway.sdk.munge import present as munge_present
from gateway.sdk.wire import Call, EventLines, ServerEvent, Transient


class Transport:
    """One gateway, one token. `attempts` counts the first; `timeout` for connecting and for each answer, in seconds."""

    def __init__(
        self,
        url: str | None,
        token: str | None,
        *,
        timeout: float,
        attempts: int,
        ca: trust.Ca = None,
        origin: wire.Origin | None = None,
    ) -> None:
        self.url = (url or defaults.url()).rstrip("/")
        given = token or os.environ.get("SLUICE_TOKEN")
        stored = None if given else credentials.load(self.url)
        self._renewing = credentials.Renewing(self.url, stored) if stored is not None else None
        self._token = None if stored is not None else given or defaults.token(self.url)
        self.attempts = attempts
        self.timeout = timeout
        unknown = stored is None and not self._token and defaults.socket_of(self.url) is None
        self._munged = Munged(self.url, self.base) if unknown and munge_present() else None
        headers = {"User-Agent": "sluice-sdk", "Accept": "application/json"}
        if origin is not None:
            headers["X-Sluice-Origin"] = origin
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        self.verify = trust.verify(ca)
        self.http = httpx.Client(
            base_url=self.base, headers=headers, auth=self._renewing or self._munged, timeout=timeout, **self._way()
        )

    @property
    def base(self) -> str:
        """The address as HTTP needs it."""
        return defaults.base(self.url)

    def _way(self) -> dict[str, Any]:
        """How any client of HTTP gets to the gateway."""
        socket = defaults.socket_of(self.url)
        return {
            "transport": httpx.HTTPTransport(uds=socket) if socket is not None else None,
            "verify": self.verify,
            "trust_env": not defaults.is_local(self.url),
        }

    def another(self) -> httpx.Client:
        """A client for another library, which closes it itself."""
        return httpx.Client(auth=self._renewing or self._munged or credentials.Shown(self._token), **self._way())

    @property
    def token(self) -> str | None:
        """The one in force now."""
        if self._munged is not None:
            return self._munged.token
        return self._renewing.token if self._renewing is not None else self._token

    def close(self) -> None:
        self.http.close()

    def alive(self) -> bool:
        """Whether a gateway answers at all; asked once, without a token's being needed."""
        try:
            response = self.http.get(f"{wire.API}/health/live", timeout=2.0)
        except httpx.TransportError:
            return False
        return response.is_success

    def send(self, call: Call) -> httpx.Response:
        """The answer, if it is a good one; else the error that the gateway meant, or Unavailable."""
        try:
            for attempt in Retrying(**wire.policy(self.attempts)):
                with attempt:
                    return self._once(call)
        except Transient as last:
            raise last.error from last.__cause__
        raise AssertionError("tenacity returns or raises")

    def _once(self, call: Call) -> httpx.Response:
        try:
            response = self.http.request(
                call.method,
                wire.API + call.path,
                params=call.params,
                json=call.body,
                content=_sent(call.content) if call.content is not None else None,
                headers=call.headers,
            )
        except httpx.TransportError as error:
            lost = wire.unreachable(self.url, error)
            again = lost.retryable and (call.repeatable or wire.never_sent(error))
            raise (Transient(lost) if again else lost) from error
        if response.is_error and response.status_code not in call.good:
            raise wire.failed(response, repeatable=call.repeatable)
        return response

    def json(self, call: Call) -> Any:
        """The answer as plain JSON."""
        response = self.send(call)
        try:
            return response.json()
        except ValueError as error:
            raise wire.not_ours(str(response.request.url), "no JSON") from error

    def events(
        self, path: str, *, after: str, read_timeout: float | None, params: dict[str, Any]
    ) -> Generator[ServerEvent | None, None, None]:
        """Server-sent events that follow the id `after`, and None for each sign of life, until the stream breaks off.

        No retries here: who reads knows where to resume. Unavailable if the connection is lost, or silent for
        `read_timeout` seconds.
        """
        headers = {"Last-Event-ID": after} if after else {}
        call = Call(method="GET", path=wire.API + path, params=params, headers=headers)
        with closing(self.stream(call, read_timeout=read_timeout)) as events:
            yield from events

    def lines(self, call: Call) -> Generator[str, None, None]:
        """The lines of a long answer, as they come; sent once. Unavailable if it breaks off."""
        try:
            with self.http.stream(
                call.method, wire.API + call.path, params=call.params, headers={"Accept": "*/*"}
            ) as response:
                if response.is_error:
                    response.read()
                    raise wire.problem(response)
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise wire.unreachable(self.url, error) from error

    def pieces(self, call: Call) -> Generator[bytes, None, None]:
        """A long answer as it comes; sent once. Unavailable if it breaks off."""
        try:
            with self.http.stream(
                call.method,
                wire.API + call.path,
                params=call.params,
                headers={"Accept": "*/*", "Accept-Encoding": "identity", **call.headers},
            ) as response:
                if response.is_error and response.status_code not in call.good:
                    response.read()
                    raise wire.problem(response)
                if response.is_success:
                    yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise wire.unreachable(self.url, error) from error

    def stream(self, call: Call, *, read_timeout: float | None) -> Generator[ServerEvent | None, None, None]:
        """The server-sent events that answer a call, sent once to its path as it stands."""
        lines = EventLines()
        try:
            with self.http.stream(
                call.method,
                call.path,
                params=call.params,
                json=call.body,
                headers={"Accept": "text/event-stream", **call.headers},
                timeout=httpx.Timeout(self.timeout, read=read_timeout),
            ) as response:
                if response.is_error:
                    response.read()
                    raise wire.problem(response)
                for line in response.iter_lines():
                    for event in lines.feed(line):
                        if event is not None and event.type == wire.ERROR_EVENT:
                            raise wire.event_error(event, self.url + call.path)
                        yield event
        except httpx.TransportError as error:
            raise wire.unreachable(self.url, error) from error


def _sent(content: wire.Content) -> Generator[bytes, None, None]:
    yield from content.pieces()
