"""How the body of an HTTP/1.1 message is framed: which of the bytes that come belong to it, and when it is whole.

Bodies are passed on as they come, framing included, so a body is only measured here, never taken apart. What does not
follow RFC 9112 to the letter is refused: two programs that read one message differently are how requests are smuggled.
"""

import re
from collections.abc import Iterator
from typing import Protocol

from gateway.agent.landing import Bytes

LONGEST_LINE = 4096
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n")
_LINE_END = b"\r\n"


class Malformed(Exception):
    """The message is no HTTP/1.1. The text says why."""


class Frame(Protocol):
    """A body that is coming. `done`: it is whole. `between`: it stands where something may be put in between."""

    done: bool

    @property
    def between(self) -> bool: ...

    def take(self, data: Bytes) -> int:
        """How many of these bytes, from the first on, belong to the body. Malformed."""


class Counted:
    """A body of known length, in bytes; 0 where there is none."""

    __slots__ = ("_left", "done")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    @property
    def between(self) -> bool:
        return False

    def take(self, data: Bytes) -> int:
        size = len(data)
        if size < self._left:
            self._left -= size
            return size
        size, self._left, self.done = self._left, 0, True
        return size


#: The body of a message that has none, or that was taken already; it is everybody's, as nothing changes in it.
NOTHING = Counted(0)


class UntilClose:
    """The body of an answer that ends with its connection."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    @property
    def between(self) -> bool:
        return True

    def take(self, data: Bytes) -> int:
        return len(data)


class Chunked:
    """A body in chunks. `trailers`: whether fields may follow the last chunk."""

    __slots__ = ("_held", "_last", "_left", "_trailers", "done")

    def __init__(self, *, trailers: bool) -> None:
        self._trailers = trailers
        self._left = 0  # of the chunk, with the line end behind it
        self._held = b""  # a line that is not whole yet; its bytes were counted when they came
        self._last = False
        self.done = False

    @property
    def between(self) -> bool:
        return not (self._left or self._held or self._last)

    def take(self, data: Bytes) -> int:
        size = len(data)
        if size < self._left - 1:  # the inside of a chunk
            self._left -= size
            return size
        return self._follow(bytes(data))

    def _follow(self, data: bytes) -> int:
        before = 0
        if self._held:
            before, data = len(self._held), self._held + data
            self._held = b""
        at, size = 0, len(data)
        while not self.done and at < size:
            if self._left:
                at = self._chunk(data, at, size)
            elif self._last:
                at = self._end(data, at)
            else:
                at = self._size_line(data, at)
        return at - before

    def _chunk(self, data: bytes, at: int, size: int) -> int:
        """Past the chunk, or past all there is."""
        end = at + self._left
        if end <= size:
            if data[max(at, end - 2) : end] != _LINE_END[-self._left :]:
                raise Malformed("a chunk is longer than it said")
            self._left = 0
            return end
        self._left = end - size
        if self._left == 1 and data[-1:] != b"\r":
            raise Malformed("a chunk is longer than it said")
        return size

    def _size_line(self, data: bytes, at: int) -> int:
        found = _SIZE.match(data, at)
        if found is None:
            return self._hold(data, at)
        length = int(found[1], 16)
        if length:
            self._left = length + 2
        else:
            self._last = True
        return found.end()

    def _end(self, data: bytes, at: int) -> int:
        """The empty line behind the last chunk, or one of the trailer's."""
        if data.startswith(_LINE_END, at):
            self.done = True
            return at + 2
        found = _TRAILER.match(data, at)
        if found is None:
            return self._hold(data, at)
        if not self._trailers:
            raise Malformed("a trailer is not taken here")
        return found.end()

    def _hold(self, data: bytes, at: int) -> int:
        """Keep the beginning of a line until the rest comes."""
        if data.find(b"\n", at) >= 0 or len(data) - at > LONGEST_LINE:
            raise Malformed("the chunks cannot be read")
        self._held = data[at:]
        return len(data)


def whole_chunk(line: bytes) -> int:
    """The bytes of a chunk in all, from this size line to the line end behind it; 0 if it is none, or the last."""
    found = _SIZE.fullmatch(line)
    length = int(found[1], 16) if found is not None else 0
    return len(line) + length + 2 if length else 0


def chunks(body: bytes) -> Iterator[bytes]:
    """What is in the chunks of a body that is whole, one after the other."""
    at = 0
    while size := int(body[at : (end := body.index(_LINE_END, at))].partition(b";")[0], 16):
        yield body[end + 2 : end + 2 + size]
        at = end + 4 + size


def dechunked(body: bytes) -> bytes:
    """What is in the chunks of a body that is whole."""
    return b"".join(chunks(body))
