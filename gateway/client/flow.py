"""A stream's events on their way to the caller: the short way, which nearly all of them go.

What is done for every event of every stream is most of what the gateway does, and its cost is less what is computed
than what is touched: functions and objects that were in no cache since the last event. So an event that comes as one
whole chunk is passed on with as few of them as can be. All else goes the exchange's way.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from gateway.agent.landing import Bytes
from gateway.client.framing import Chunked, whole_chunk

if TYPE_CHECKING:
    import asyncio

    from gateway.client.connection import User
    from gateway.client.usage import Tail

_LONGEST_SIZE = 18
_bytes_of = lru_cache(4096)(whole_chunk)


class Flow:
    """The user of a connection while a stream's events come. `tail` keeps the last of them."""

    __slots__ = ("_between", "_exchange", "_frame", "_tail", "_transport")

    def __init__(self, exchange: "User", frame: Chunked, tail: "Tail", transport: "asyncio.WriteTransport") -> None:
        self._exchange = exchange
        self._frame = frame
        self._tail = tail
        self._transport = transport
        self._between = frame.between

    def answered(self, data: Bytes) -> None:
        if self._between and isinstance(data, bytes):
            line = data[: data.find(b"\n", 0, _LONGEST_SIZE) + 1]
            if _bytes_of(line) == len(data) and data.endswith(b"\r\n"):
                self._tail.add(data)
                self._transport.write(data)
                return
        self._exchange.answered(data)
        self._between = self._frame.between

    def broke(self, why: str, *, whole: bool) -> None:
        self._exchange.broke(why, whole=whole)

    def congested(self) -> None:
        self._exchange.congested()

    def relieved(self) -> None:
        self._exchange.relieved()
