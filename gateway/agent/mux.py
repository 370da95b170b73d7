"""Many streams over one connection between the gateway and an agent. Both ends use this; neither knows what flows.

A TLS record and two system calls for each event of each answer are most of what a relay costs. Here what is written in
one turn of the event loop goes out together: the busier it is, the less each piece costs. And a stream costs no
handshake, so a thousand that begin at once begin at once.

A frame is the stream's number (four bytes), its kind (one), an unused byte, the length (two) and as many bytes. Each
side may send what the other's window has room for (as in HTTP/2), so nobody who reads slowly holds up the others.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import TYPE_CHECKING, Callable, Deque, Dict, List, Optional

if TYPE_CHECKING:
    from .edge import Handler
    from .landing import Bytes

#: A stream begins, in the order of their numbers; DATA; room for more of it (the content says how much); nothing more
#: comes; the stream is over, in disorder perhaps.
BEGIN, DATA, ROOM, END, RESET = range(5)
HEAD = struct.Struct(">IBxH")
#: The content of a frame.
LONGEST = 1 << 15
#: What may be under way in one direction of a stream: at first, and where the reader keeps up with more.
WINDOW, WIDEST = 1 << 18, 1 << 21
LINGER_SECONDS = 10.0
_ROOM = struct.Struct(">I")


class Unruly(Exception):
    """The other side does not keep to the rules. The text says how."""


class Stream:
    """One stream, for its `handler`: to whom it is what an `Edge` is."""

    __slots__ = (
        "_closing",
        "_due",
        "_ended",
        "_given",
        "_held",
        "_mux",
        "_number",
        "_paused",
        "_room",
        "_slow",
        "_window",
        "handler",
    )

    def __init__(self, mux: Mux, number: int) -> None:
        self._mux, self._number = mux, number
        self.handler: Handler
        self._room = WINDOW  # what we may send
        self._given = self._window = WINDOW  # what the other side may send, now and if we had read all
        self._due = 0  # what has come since we last said that there is room for more
        self._held: Deque[memoryview] = deque()  # what there was no room for
        self._paused = self._slow = self._ended = self._closing = False

    # What the handler does.

    def write(self, data: Bytes) -> None:
        """Send: bytes, or a memoryview, which is done with then. Nothing after `write_eof`."""
        if self._ended:
            return
        size = len(data)
        if size <= self._room and size <= LONGEST and not self._held:
            self._room -= size
            self._mux.send(self._number, DATA, data if isinstance(data, bytes) else bytes(data))
            return
        self._held.append(memoryview(bytes(data)))
        self._send_held()
        if self._held:
            self.stall()

    def write_eof(self) -> None:
        """Say that nothing more will come; the other side may still send."""
        if not self._ended:
            self._ended = True
            if not self._held:
                self._mux.send(self._number, END)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._give_room()

    def close(self) -> None:
        """Send what is left, and be done. Who does not read cannot hold it."""
        self.write_eof()
        if not self._held:
            self._mux.forget(self._number)
        elif not self._closing:
            self._closing = True
            self._mux.loop.call_later(LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        self._ended = True
        if self._mux.forget(self._number):
            self._mux.send(self._number, RESET)

    # What the connection says.

    def came(self, data: bytes) -> None:
        size = len(data)
        self._given -= size
        if self._given < 0:
            raise Unruly("more was sent on a stream than there is room for")
        self._due += size
        self.handler.received(data)
        if self._due >= self._window >> 1 and not self._paused:
            wider = min(self._window, WIDEST - self._window)  # it is bulk, and the round trips are what it waits for
            self._window += wider
            self._due += wider
            self._give_room()

    def has_room(self, size: int) -> None:
        self._room += size
        if self._held:
            self._send_held()
            if self._ended and not self._held:
                self._mux.send(self._number, END)
                if self._closing:
                    self._mux.forget(self._number)
                return
        self.relieve()

    def stall(self) -> None:
        """Nothing more can be sent for now."""
        if not self._slow:
            self._slow = True
            self.handler.choke()

    def relieve(self) -> None:
        if self._slow and not self._held and not self._mux.slow:
            self._slow = False
            self.handler.unchoke()

    # Within.

    def _give_room(self) -> None:
        if self._due:
            self._mux.send(self._number, ROOM, _ROOM.pack(self._due))
            self._given += self._due
            self._due = 0

    def _send_held(self) -> None:
        held = self._held
        while held and self._room:
            piece = held.popleft()
            size = min(len(piece), self._room, LONGEST)
            if size < len(piece):
                held.appendleft(piece[size:])
            self._room -= size
            self._mux.send(self._number, DATA, piece[:size])


class Mux:
    """One connection's streams. `write` puts bytes on the connection, `abort` ends it at once.

    `accept` makes the handler of a stream that the other side opened, or None if it has said why there is none; without
    it only we open streams. To an `Edge` it is a handler itself.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        abort: Callable[[], None],
        accept: Optional[Callable[[Stream], Optional[Handler]]] = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._write, self._abort, self._accept = write, abort, accept
        self._streams: Dict[int, Stream] = {}
        self._newest = 0
        self._frames: List[Bytes] = []
        self._rest = b""
        self.slow = self.gone = False

    def __len__(self) -> int:
        return len(self._streams)

    def open(self) -> Stream:
        """A new stream, whose `handler` is to be set."""
        self._newest += 1
        stream = self._streams[self._newest] = Stream(self, self._newest)
        self.send(self._newest, BEGIN)
        return stream

    def send(self, number: int, kind: int, data: Bytes = b"") -> None:
        """In this turn of the loop; the data must not change until then."""
        if not self._frames and not self.gone:
            self.loop.call_soon(self._flush)
        self._frames += (HEAD.pack(number, kind, len(data)), data)

    def forget(self, number: int) -> bool:
        """The stream is over; its handler is told soon. Whether there was one."""
        stream = self._streams.pop(number, None)
        if stream is not None:
            self.loop.call_soon(stream.handler.lost)
        return stream is not None

    # What the connection says.

    def received(self, data: Bytes) -> None:
        try:
            self._follow(data)
        except Unruly:
            self._abort()  # and hear it no more

    def ended(self) -> None:
        self._abort()

    def lost(self) -> None:
        """The connection is gone, and all streams with it."""
        self.gone = True
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.handler.lost()

    def choke(self) -> None:
        """The connection takes nothing more for now."""
        self.slow = True
        for stream in list(self._streams.values()):
            stream.stall()

    def unchoke(self) -> None:
        self.slow = False
        for stream in list(self._streams.values()):
            stream.relieve()

    # Within.

    def _follow(self, data: Bytes) -> None:
        text = memoryview(self._rest + data if self._rest else data)
        at, end = 0, len(text)
        while end - at >= HEAD.size:
            number, kind, size = HEAD.unpack_from(text, at)
            after = at + HEAD.size + size
            if after > end:
                break
            self._take(number, kind, bytes(text[at + HEAD.size : after]))
            at = after
        self._rest = bytes(text[at:])

    def _take(self, number: int, kind: int, data: bytes) -> None:
        stream = self._streams.get(number)
        if kind == BEGIN:
            self._begin(number)
        elif number > self._newest:
            raise Unruly("a stream that has not begun")
        elif stream is None:
            return  # it is over here, and what was on its way then is nobody's
        elif kind == DATA:
            stream.came(data)
        elif kind == ROOM:
            if len(data) != _ROOM.size:
                raise Unruly("room for how much")
            stream.has_room(_ROOM.unpack(data)[0])
        elif kind == END:
            stream.handler.ended()
        elif kind == RESET:
            self.forget(number)

    def _begin(self, number: int) -> None:
        """A stream that the other side has opened."""
        if self._accept is None or number <= self._newest:
            raise Unruly("a stream that may not begin")
        self._newest = number
        stream = Stream(self, number)
        handler = self._accept(stream)
        if handler is None:
            stream.write_eof()
        else:
            stream.handler = handler
            self._streams[number] = stream

    def _flush(self) -> None:
        frames, self._frames = self._frames, []
        if not self.gone:
            self._write(b"".join(frames))
