"""Closed-loop readers in a process of their own: N connections, each asks again when its answer is there.

All connect first, and what is answered in the first WARM seconds is not counted: connections are made once, and
asked over for hours. The readers cost the machine processor time, too; how much is told (`own`).

`python -m benchmarks.readers` reads its job as JSON from stdin and prints what it saw as JSON.
"""

import asyncio
import gc
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.crowd import cpu_of

WARM = 1.0


@dataclass(frozen=True)
class Job:
    """`paths` are asked for at random over `connections` for `seconds`; `pid` is of the server that answers."""

    url: str
    paths: Sequence[str]
    headers: dict[str, str]
    connections: int
    seconds: float
    pid: int


@dataclass(frozen=True)
class Seen:
    """Requests a second, seconds of each answer, and how many were no 200.

    CPU seconds of an answer: the server's, and the readers' `own`.
    """

    rate: float
    seconds: Sequence[float]
    errors: int
    server: float
    own: float


def read(job: Job) -> Seen:
    """Run the job beside this process, so that neither waits for the other."""
    command = [sys.executable, "-m", "benchmarks.readers"]
    done = subprocess.run(command, input=json.dumps(asdict(job)), capture_output=True, text=True, check=True)
    return Seen(**json.loads(done.stdout))


class _Reader(asyncio.Protocol):
    """One connection. An answer's head is looked at once: its length tells where the answer ends."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests = requests
        self._buffer, self._left, self._began = b"", -1, 0.0
        self.seconds: list[float] = []
        self.errors = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def begin(self, since: float, until: float) -> None:
        """Count what is answered from `since` on, and stop at `until`."""
        self._since, self._until = since, until
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.done.done():
            self.errors += 1
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            at = head.index(b"content-length:") + 15
            length = int(head[at:].split(b"\r\n", 1)[0])
            self.errors += not head.startswith(b"http/1.1 200")
            self._left = length - (len(self._buffer) - end - 4)
            self._buffer = b""
        else:
            self._left -= len(data)
        if self._left <= 0:
            self._left = -1
            now = time.perf_counter()
            if now > self._since:
                self.seconds.append(now - self._began)
            if now < self._until:
                self._ask()
            else:
                self.done.set_result(None)
                self._transport.close()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(random.choice(self._requests))  # noqa: S311 - which is asked for is no secret


async def _run(job: Job) -> Seen:
    place = urlsplit(job.url)
    lines = "".join(f"{name}: {value}\r\n" for name, value in job.headers.items())
    requests = [f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\n{lines}\r\n".encode() for path in job.paths]
    loop, readers = asyncio.get_running_loop(), []
    for _ in range(job.connections):
        _, reader = await loop.create_connection(lambda: _Reader(requests), str(place.hostname), place.port or 80)
        readers.append(reader)
    gc.freeze()
    gc.disable()
    since = time.perf_counter() + WARM
    for reader in readers:
        reader.begin(since, since + job.seconds)
    await asyncio.sleep(WARM)
    own, server = time.process_time(), cpu_of(job.pid)
    await asyncio.gather(*(reader.done for reader in readers))
    seconds = [one for reader in readers for one in reader.seconds]
    number = max(1, len(seconds))
    return Seen(
        rate=len(seconds) / (time.perf_counter() - since),
        seconds=seconds,
        errors=sum(reader.errors for reader in readers),
        server=(cpu_of(job.pid) - server) / number,
        own=(time.process_time() - own) / number,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(_run(Job(**json.load(sys.stdin)))))))
