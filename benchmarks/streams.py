"""Many streams at once: when the first event of each comes, and how long every event was on its way."""

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

WITHIN = 60.0
#: A proxy may begin a new chunk in the middle of a number.
_CUT = re.compile(rb"\r\n[0-9a-fA-F]+\r\n")


@dataclass
class Streams:
    """Seconds to the first event, seconds that events were on their way; how many streams failed, or were not done.

    `events`: all that came.
    """

    first: list[float] = field(default_factory=list)
    transit: list[float] = field(default_factory=list)
    errors: int = 0
    streams: int = 0
    cut: int = 0
    events: int = 0


class _Reader(asyncio.Protocol):
    """Sends one request, and reads the stub's events until the last."""

    def __init__(self, message: bytes, result: Streams) -> None:
        self._message, self._result = message, result
        self._transport: asyncio.Transport
        self._tail = b""
        self._answered = False
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def ask(self) -> None:
        self._tail, self._answered = b"", False
        self.ended = asyncio.get_running_loop().create_future()
        self._began = time.perf_counter()
        self._transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns() // 1000
        data = self._tail + data
        at = data.find(b'"content":"T')
        if at >= 0 and not self._answered:
            self._answered = True
            self._result.first.append(time.perf_counter() - self._began)
        while at >= 0:
            end = data.find(b" ", at)
            if end < 0:
                break
            self._result.transit.append((now - int(_CUT.sub(b"", data[at + 12 : end]))) / 1e6)
            data = data[end:]
            at = data.find(b'"content":"T')
        self._tail = data[-64:] if at < 0 else data[at:]
        if data.endswith(b"\r\n0\r\n\r\n") and not self.ended.done():
            self.ended.set_result(b"[DONE]" in data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.ended.done():
            self.ended.set_result(False)

    def close(self) -> None:
        self._transport.close()


async def streams(
    url: str, headers: dict[str, str], *, connections: int, events: int, gap: int, rounds: int, within: float = WITHIN
) -> Streams:
    """`rounds` streams over each of the connections, each of so many events, one every `gap` milliseconds.

    The first round warms up and does not count, unless nothing came after it; failures count in every round. What is
    not done `within` so many seconds of the start is cut off, which is told apart from failures.
    """
    place, result = urlsplit(url), Streams()
    asked = {"model": "bench-stub", "messages": [], "max_tokens": events, "stream": True, "seed": gap}
    body = json.dumps(asked).encode()
    lines = [f"POST {place.path} HTTP/1.1", f"Host: {place.netloc}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    message = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    warm, readers = Streams(), list[_Reader]()
    until = asyncio.get_running_loop().time() + within

    async def one(number: int) -> None:
        await asyncio.sleep(events * gap / 1000 * number / connections)  # their events shall not come all at once
        for turn in range(rounds + 1):
            into = result if turn else warm
            result.streams += 1
            try:
                async with asyncio.timeout_at(until):
                    if turn == 0:
                        _, reader = await asyncio.get_running_loop().create_connection(
                            lambda: _Reader(message, warm), place.hostname or "", place.port or 80
                        )
                        readers.append(reader)
                    reader._result = into  # noqa: SLF001 - ours
                    reader.ask()
                    whole = await reader.ended
            except TimeoutError:
                result.cut += 1
                return
            except OSError:
                whole = False
            if not whole:
                result.errors += 1
                return

    await asyncio.gather(*(one(number) for number in range(connections)))
    for reader in readers:
        reader.close()
    result.events = len(warm.transit) + len(result.transit)
    if not result.first:
        result.first, result.transit = warm.first, warm.transit
    return result
