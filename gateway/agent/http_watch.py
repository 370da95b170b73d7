"""Follows the HTTP/1.1 messages of one connection without touching them: which requests still wait for their answer.

Draining must know whether an answer is complete, and bytes alone do not tell: a stream may pause between two tokens.
What is not HTTP/1.x (WebSocket after its upgrade, HTTP/2, anything else) is `opaque`: then only the last byte's time
is known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, List, Optional

if TYPE_CHECKING:
    from .landing import Bytes

_MAX_HEAD = 128 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*(?=\r\n)")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked[ \t]*(?=\r\n)")
_CLOSE = re.compile(rb"\r\nconnection:[^\r\n]*\bclose\b")
_REQUEST_WORDS = 3  # method, target, version
_OK, _MULTIPLE, _SWITCHING = 200, 300, 101
_CLOSED = 1 << 62  # a body that ends with the connection


class NotHttp(Exception):
    """The bytes are no HTTP/1.x message."""


class Reader:
    """The framing of one direction. `heads` are those complete since they were last taken, lower-case."""

    __slots__ = ("_buffer", "_chunked", "_left", "_reads_body", "inside")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0  # bytes of the body, or of the chunk with its line end, still to come
        self._chunked = False
        self._reads_body = False
        self.inside = False

    def head(self, data: bytes) -> Optional[bytes]:
        """Take bytes where a head is due; the head in lower case once it is complete, and the rest is kept."""
        self._buffer += data
        if not self._buffer:
            return None
        self.inside = True
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise NotHttp
            return None
        head, self._buffer = self._buffer[: end + 2].lower(), self._buffer[end + 4 :]
        return head

    def begin_body(self, head: bytes, *, until_close: bool, none: bool = False) -> None:
        """A head was read: how its body is framed. `until_close`: without a length it lasts until the end."""
        self._reads_body = True
        self._chunked = False
        self._left = 0
        if none:
            return
        if _CHUNKED.search(head):
            self._chunked = True
            return
        found = _LENGTH.search(head)
        if found:
            self._left = int(found.group(1))
        elif until_close:
            self._left = _CLOSED

    @property
    def in_body(self) -> bool:
        return self._reads_body

    def passes(self, size: int) -> bool:
        """Whether so many bytes are the inside of a body, with more of it behind them; they are counted then."""
        if not self._reads_body or self._buffer or size >= self._left:
            return False
        self._left -= size
        return True

    def body(self, data: bytes) -> bool:
        """Take bytes of a body; True once it is complete."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        if not self._chunked:
            taken = min(self._left, len(data))
            self._left -= taken
            self._buffer = data[taken:]
            return self._done() if not self._left else False
        return self._chunks(data)

    def _chunks(self, data: bytes) -> bool:
        at = 0
        while True:
            if self._left:
                taken = min(self._left, len(data) - at)
                self._left -= taken
                at += taken
                if self._left:
                    return False
            end = data.find(b"\r\n", at)
            if end < 0:
                self._buffer = data[at:]
                if len(self._buffer) > _MAX_HEAD:
                    raise NotHttp
                return False
            try:
                size = int(data[at:end].split(b";", 1)[0], 16)
            except ValueError:
                raise NotHttp from None
            if size:
                self._left = size + 2
                at = end + 2
                continue
            # The last chunk: an empty line, or trailers up to one, ends the message.
            close = end if data[end : end + 4] == b"\r\n\r\n" else data.find(b"\r\n\r\n", end)
            if close < 0:
                self._buffer = data[at:]
                return False
            self._buffer = data[close + 4 :]
            return self._done()

    def _done(self) -> bool:
        self._reads_body = False
        self.inside = False
        return True

    @property
    def kept(self) -> bool:
        return bool(self._buffer)


class HttpWatch:
    """Both directions of one connection. `requests` counts those begun, `in_flight` those not answered yet.

    `last`: one side has said that it closes after this message, so the end of the connection is part of the talk.
    """

    __slots__ = ("_answers", "_asked", "_methods", "last", "opaque", "requests")

    def __init__(self) -> None:
        self._asked = Reader()
        self._answers = Reader()
        self._methods: List[bytes] = []  # of the requests that wait for their answer, oldest first
        self.last = False
        self.opaque = False
        self.requests = 0

    @property
    def in_flight(self) -> int:
        return len(self._methods) or (1 if self._asked.inside or self._answers.inside else 0)

    def sent(self, data: Bytes) -> None:
        """The client sent these bytes."""
        if self.opaque or self._asked.passes(len(data)):
            return
        try:
            self._follow_requests(bytes(data))
        except NotHttp:
            self.opaque = True

    def answered(self, data: Bytes) -> None:
        """The service sent these bytes."""
        if self.opaque or self._answers.passes(len(data)):
            return
        try:
            self._follow_answers(bytes(data))
        except NotHttp:
            self.opaque = True

    def _follow_requests(self, data: bytes) -> None:
        reader = self._asked
        while True:
            if not reader.in_body:
                head = reader.head(data)
                data = b""
                if head is None:
                    return
                line = head[: head.find(b"\r\n")].split(b" ")
                if len(line) != _REQUEST_WORDS or not line[2].startswith(b"http/1."):
                    raise NotHttp
                self._methods.append(line[0])
                self.last = _CLOSE.search(head) is not None
                self.requests += 1
                reader.begin_body(head, until_close=False)
            if not reader.body(data):
                return
            data = b""
            if not reader.kept:
                return

    def _follow_answers(self, data: bytes) -> None:
        reader = self._answers
        while True:
            if not reader.in_body:
                head = reader.head(data)
                data = b""
                if head is None:
                    return
                if not self._begin_answer(reader, head):
                    if not reader.kept:
                        return
                    continue
            if not reader.body(data):
                return
            data = b""
            if self._methods:
                del self._methods[0]
            if not reader.kept:
                return

    def _begin_answer(self, reader: Reader, head: bytes) -> bool:
        """A head from the service; False if it is an interim one, after which the real one comes."""
        if not head.startswith(b"http/1.") or not head[9:12].isdigit():
            raise NotHttp
        status = int(head[9:12])
        method = self._methods[0] if self._methods else b""
        if status == _SWITCHING or (method == b"connect" and status < _MULTIPLE):
            raise NotHttp  # what follows is another protocol
        if status < _OK:
            reader.inside = False
            return False
        self.last = self.last or _CLOSE.search(head) is not None
        reader.begin_body(head, until_close=True, none=method == b"head" or status in (204, 304))
        return True
