"""A service whose connections share one, as those behind an agent do."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.agent.edge import Handler
from gateway.agent.landing import Bytes
from gateway.agent.mux import Mux, Stream

Service = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: Service) -> None:
    """Until the connection ends, the service is called for each of its streams."""
    tasks: set[asyncio.Task[None]] = set()

    def accept(stream: Stream) -> Handler:
        inside = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(inside)
        transport = _Transport(stream, protocol, writer)
        protocol.connection_made(transport)
        out = asyncio.StreamWriter(transport, protocol, inside, asyncio.get_running_loop())
        tasks.add(asyncio.create_task(_one(service, inside, out)))
        return transport

    mux = Mux(writer.write, writer.transport.abort, accept)
    try:
        while data := await reader.read(1 << 16):
            mux.received(data)
    except ConnectionError:
        pass
    finally:
        mux.lost()
        await asyncio.gather(*tasks)


async def _one(service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await service(reader, writer)
    except (ConnectionError, asyncio.IncompleteReadError):
        return
    finally:
        writer.close()


class _Transport(asyncio.Transport):
    """A stream, for asyncio's own readers and writers."""

    def __init__(self, stream: Stream, protocol: asyncio.StreamReaderProtocol, outer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._stream, self._protocol, self._outer = stream, protocol, outer
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._stream.write(bytes(data))

    def write_eof(self) -> None:
        self._stream.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self._closing = True
        self._stream.close()

    def abort(self) -> None:
        self._closing = True
        self._stream.abort()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._stream.pause_reading()

    def resume_reading(self) -> None:
        self._stream.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._outer.get_extra_info(name, default)

    def received(self, data: Bytes) -> None:
        self._protocol.data_received(bytes(data))

    def ended(self) -> None:
        self._protocol.eof_received()

    def lost(self) -> None:
        self._closing = True
        self._protocol.connection_lost(None)

    def choke(self) -> None:
        self._protocol.pause_writing()

    def unchoke(self) -> None:
        self._protocol.resume_writing()
