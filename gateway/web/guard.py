"""HTTP connections that neither wait for ever nor take in endless heads: uvicorn's own, with bounds."""

import asyncio
from typing import Any

from gateway.errors import HeadTooLarge, Invalid, SluiceError, TooSlow
from gateway.web import errors
from gateway.web.door import SECURITY_HEADERS
from gateway.web.limits import (
    HEAD_SECONDS,
    IDLE_SECONDS,
    LONGEST_HEAD,
    MOST_HEADERS,
    STUCK_SECONDS,
    SWEEP_SECONDS,
    body_deadline,
)
from gateway.web.peers import PeerProtocol

_NEVER = float("inf")


class _Refused(Exception):
    """Ends the parser's reading of a head."""


class GuardedProtocol(PeerProtocol):
    """One connection. `look` is called every SWEEP_SECONDS, and ends it when its time is over."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._clock = asyncio.get_running_loop().time
        self._head_began = _NEVER
        self._head_size = 0
        self._body_began = self._body_came = 0.0
        self._body_size = 0
        self._in_body = False
        self._stuck_since = _NEVER
        self._opened = self._clock()
        self._refusal: SluiceError | None = None

    # What comes

    def data_received(self, data: bytes) -> None:
        now = self._clock()
        if self._in_body:
            self._body_came = now
            self._body_size += len(data)
        elif self._head_began == _NEVER:
            self._head_began, self._head_size = now, 0
        super().data_received(data)
        if self._head_began != _NEVER and not self.transport.is_closing():
            self._head_size += len(data)
            if self._head_size > LONGEST_HEAD:
                self._refuse(_head_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_began, self._head_size = self._clock(), 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self._head_began, self._in_body = _NEVER, True
        self._body_began = self._body_came = self._clock()
        self._body_size = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body = False

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > LONGEST_HEAD or len(self.headers) > MOST_HEADERS:
            self._refusal = _head_too_large()
            raise _Refused

    # What is read of the answer

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck_since = self._clock()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stuck_since = _NEVER

    # The end

    @property
    def coming(self) -> str:
        """What has begun to come, and is not whole yet: `head`, `body`, or nothing."""
        return "body" if self._in_body else "head" if self._head_began != _NEVER else ""

    def look(self, now: float) -> None:
        """End what has taken too long."""
        if now > self._stuck_since + STUCK_SECONDS:
            self.transport.abort()
        elif now > self._head_began + HEAD_SECONDS:
            self._refuse(TooSlow("the request did not come in time"))
        elif self._in_body and self.flow.read_paused:  # it is we who do not read
            self._body_came = now
            self._body_began += SWEEP_SECONDS
        elif self._in_body and now > body_deadline(self._body_came, self._body_began, self._body_size):
            self._refuse(TooSlow("the body did not come in time"))
        elif self.cycle is None and now > self._opened + IDLE_SECONDS:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn says to what is no request, in our words."""
        refusal, self._refusal = self._refusal, None
        self._refuse(refusal or Invalid(f"this is no request of HTTP/1.1: {msg}"), status=None if refusal else 400)

    def _refuse(self, error: SluiceError, *, status: int | None = None) -> None:
        """Say so, unless an answer has begun, and close."""
        self._head_began, self._in_body = _NEVER, False
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
            return
        found = errors.problem_of(error)
        answer = errors.respond(found | ({"status": status, "title": "Bad Request"} if status else {}))
        for name, value in SECURITY_HEADERS.items():
            answer.headers.setdefault(name, value)
        lines = [b"HTTP/1.1 %d %b\r\n" % (answer.status_code, str(found["title"]).encode())]
        lines += [b"%b: %b\r\n" % pair for pair in answer.raw_headers]
        self.transport.write(b"".join([*lines, b"connection: close\r\n\r\n", bytes(answer.body)]))
        self.transport.close()


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"there are more than {MOST_HEADERS} headers, or more than {LONGEST_HEAD >> 10} KiB of them")
