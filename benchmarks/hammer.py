"""The same request over and over for a few seconds: N connections, each asks again as soon as it has its answer.

Raw HTTP/1.1 on the event loop's protocols, so that the client costs little beside what it measures.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

CONNECT_WITHIN = 5.0
AGAIN = 0.02


@dataclass
class Hammered:
    """Seconds of each answer that came in the counted time, `took` seconds; how many requests were sent and failed."""

    seconds: list[float] = field(default_factory=list)
    took: float = 0.0
    sent: int = 0
    errors: int = 0

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.took if self.took else 0.0


class _Caller(asyncio.Protocol):
    """One connection. `ended` is done when it is over: True if the time was up, False if it was closed on us."""

    def __init__(self, message: bytes, result: Hammered, since: float, until: float) -> None:
        self._message, self._result, self._since, self._until = message, result, since, until
        self._transport: asyncio.Transport
        self._answer = b""
        self._asked = 0.0
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._ask()

    def _ask(self) -> None:
        self._answer = b""
        self._asked = time.perf_counter()
        if self._asked >= self._until:
            self._over(well=True)
            return
        self._result.sent += 1
        self._transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        answer = self._answer = self._answer + data if self._answer else data
        end = answer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = answer[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            whole = len(answer) >= end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
        else:
            whole = answer.endswith(b"\r\n0\r\n\r\n")  # a head may end with a 0, too
        if not whole:
            return
        now = time.perf_counter()
        if head[9:12] != b"200":
            self._result.errors += 1
        elif self._since <= self._asked and now <= self._until:
            self._result.seconds.append(now - self._asked)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.ended.done():
            self._result.errors += 1
            self._over(well=False)

    def _over(self, *, well: bool) -> None:
        if not self.ended.done():
            self.ended.set_result(well)
        self._transport.close()


async def hammer(
    url: str, body: bytes, headers: dict[str, str], *, connections: int, seconds: float, warm: float
) -> Hammered:
    """Ask for `warm + seconds` seconds, and count the latter. What is under way at the end counts as nothing."""
    place, result = urlsplit(url), Hammered(took=seconds)
    lines = [f"POST {place.path} HTTP/1.1", f"Host: {place.netloc}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    message = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    began = time.perf_counter()
    since, until = began + warm, began + warm + seconds
    loop = asyncio.get_running_loop()

    async def one() -> None:
        while time.perf_counter() < until:
            try:
                async with asyncio.timeout(CONNECT_WITHIN):
                    _, caller = await loop.create_connection(
                        lambda: _Caller(message, result, since, until), place.hostname or "", place.port or 80
                    )
            except (OSError, TimeoutError):
                result.errors += 1
                await asyncio.sleep(AGAIN)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(until - time.perf_counter() + AGAIN):
                    await asyncio.shield(caller.ended)
            caller.ended.cancel()
            caller._over(well=True)  # noqa: SLF001 - ours

    await asyncio.gather(*(one() for _ in range(connections)))
    return result
