"""Messages on a terminal's or a tunnel's connection: one byte that says what it is, four of length, the content."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Dict, Iterator, Tuple

if TYPE_CHECKING:
    from .landing import Bytes

#: What a program reads, writes, and writes as errors. An empty INPUT or OUTPUT is the end of that direction.
INPUT, OUTPUT, ERRORS = 0, 1, 2
#: A JSON object about the rest.
WORDS = 3

HEAD = struct.Struct(">BI")
LONGEST = 1 << 20


def pack(kind: int, content: bytes) -> bytes:
    return HEAD.pack(kind, len(content)) + content


def words(**values: Any) -> bytes:
    """A message of WORDS."""
    return pack(WORDS, json.dumps(values).encode())


def read_words(content: bytes) -> Dict[str, Any]:
    """ValueError if it is no JSON object."""
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("a message is a JSON object")  # noqa: TRY004  # of what was sent
    return found


class Frames:
    """Takes bytes as they come, gives whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: Bytes) -> Iterator[Tuple[int, bytes]]:
        """What is whole now. ValueError if a message is longer than any may be."""
        self._buffer += data
        while len(self._buffer) >= HEAD.size:
            kind, size = HEAD.unpack_from(self._buffer)
            if size > LONGEST:
                raise ValueError("a message may have 1 MiB")
            end = HEAD.size + size
            if len(self._buffer) < end:
                return
            content = bytes(self._buffer[HEAD.size : end])
            del self._buffer[:end]
            yield kind, content
