"""HTTP connections that neither wait for ever nor take in endless heads: uvicorn's own, with bounds."""

import asyncio
from typing import Any

from gateway.errors import HeadTooLarge, Invalid, SluiceError, TooSlow
from gateway.model.connection_limits import ConnectionLimits
from gateway.web import errors
from gateway.web.door import SECURITY_HEADERS
from gateway.web.limits import LINGER_SECONDS, MOST_HEADERS, SWEEP_SECONDS
from gateway.web.peers import PeerProtocol

_NEVER = float("inf")


class _Refused(Exception):
    """Ends the parser's reading of a head."""


class GuardedProtocol(PeerProtocol):
    """One connection. `look` is called every SWEEP_SECONDS, and ends it when its time is over."""

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._clock = asyncio.get_running_loop().time
        self._head_began = _NEVER
        self._head_size = 0
        self._body_began = self._body_came = 0.0
        self._body_size = 0
        self._in_body = False
        self._stuck_since = _NEVER
        self._opened = self._clock()
        self._refusal: SluiceError | None = None
        self._lingers = False

    # What comes

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            return
        now = self._clock()
        if self._in_body:
            self._body_came = now
            self._body_size += len(data)
        elif self._head_began == _NEVER:
            self._head_began, self._head_size = now, 0
        super().data_received(data)
        if self._head_began != _NEVER and not self.transport.is_closing():
            self._head_size += len(data)
            if self._head_size > self._limits.head_bytes:
                self._refuse(self._head_too_large())

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
        if self._head_size > self._limits.head_bytes or len(self.headers) > MOST_HEADERS:
            self._refusal = self._head_too_large()
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
        if self._lingers:
            return
        if now > self._stuck_since + self._limits.stuck_seconds:
            self.transport.abort()
        elif now > self._head_began + self._limits.head_seconds:
            self._refuse(TooSlow("the request did not come in time"))
        elif self._in_body and self.flow.read_paused:  # it is we who do not read
            self._body_came = now
            self._body_began += SWEEP_SECONDS
        elif self._in_body and self._body_late(now):
            self._refuse(TooSlow("the body did not come in time"))
        elif self.cycle is None and now > self._opened + self._limits.idle_seconds:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn says to what is no request, in our words."""
        refusal, self._refusal = self._refusal, None
        self._refuse(refusal or Invalid(f"this is no request of HTTP/1.1: {msg}"), status=None if refusal else 400)

    def _refuse(self, error: SluiceError, *, status: int | None = None) -> None:
        """Say so, unless an answer has begun, and close."""
        self._head_began, self._in_body = _NEVER, False
        if self._lingers or self.transport.is_closing():
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
        self._end()

    def _end(self) -> None:
        """Close. A caller that still sends is read for a moment: a connection reset could cost it the answer."""
        self._lingers = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _body_late(self, now: float) -> bool:
        return now > self._limits.body_deadline(self._body_came, self._body_began, self._body_size)

    def _head_too_large(self) -> HeadTooLarge:
        most = self._limits.head_bytes >> 10
        return HeadTooLarge(f"there are more than {MOST_HEADERS} headers, or more than {most} KiB of them")
