"""Where the bytes of a relay's connections are read into: one buffer, used again and again.

A new object for each read costs more than what is done with its bytes, and a buffer of each connection's own is memory
for nothing. So what is handed on from here holds until its taker returns; who keeps it copies it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    import asyncio

Bytes = Union[bytes, memoryview]
SIZE = 1 << 18
#: A TLS record holds no more.
RECORD = 1 << 14
#: Shorter pieces are copied: most of them are whole heads and events, which are looked at as bytes.
SMALL = 1 << 14
#: From 3.12 on asyncio keeps what it could not write at once, and not a copy of it.
_KEPT_BY_ASYNCIO = sys.version_info >= (3, 12)


class Landing:
    """The buffer of those who read in one thread."""

    __slots__ = ("view",)

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SIZE))

    def taken(self, size: int) -> Bytes:
        """The first bytes, for who may use them until it returns."""
        piece = self.view[:size]
        return bytes(piece) if size < SMALL else piece

    def lend(self, transport: asyncio.WriteTransport, piece: Bytes) -> None:
        """Write such bytes. What cannot be written at once is still needed then."""
        if isinstance(piece, bytes):
            transport.write(piece)
        elif transport.get_write_buffer_size():
            transport.write(bytes(piece))
        else:
            transport.write(piece)
            if _KEPT_BY_ASYNCIO and transport.get_write_buffer_size():
                self.renew()

    def renew(self) -> None:
        """The buffer is somebody else's from here on."""
        self.view = memoryview(bytearray(SIZE))
