"""A slurmrestd that plays recorded answers, with its habits; and the clock of these tests."""

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateway.slurm.rest import RestScheduler
from gateway.slurm.rest_http import RestClient
from gateway.slurm.tokens import Tokens

RECORDED = Path(__file__).parents[1] / "recorded/slurm"
KEY = b"0123456789abcdef0123456789abcdef"


@dataclass
class Clock:
    """Stands still until it is moved."""

    now: datetime = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: Any


@dataclass
class Reply:
    """`twice`: as slurmrestd answers what it refuses. `cut`: close without an answer. `hang`: never answer."""

    text: str = ""
    status: int = 200
    twice: bool = False
    cut: bool = False
    hang: bool = False


Answer = Callable[[Asked], Reply]


@dataclass
class Player:
    """Answers by (method, path after the version); what is not set up is not found."""

    port: int = 0
    versions: set[str] = field(default_factory=lambda: {"v0.0.44", "v0.0.43"})
    answers: dict[tuple[str, str], Reply | Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    prefix: str = ""
    no_such_version: str = field(default_factory=lambda: recorded("rest-no-such-version.txt"))

    def paths(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked if "/ping/" not in asked.path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (asked := await self._read(reader)) is not None:
                self.asked.append(asked)
                reply = self._reply(asked)
                if reply.hang:
                    await reader.read()
                if reply.cut or reply.hang:
                    return
                closing = "Connection: Close\r\n" if reply.status >= 400 else ""
                head = f"HTTP/1.1 {reply.status} WORDS\r\n{closing}"
                data = f"{head}Content-Length: {len(reply.text.encode())}\r\n\r\n{reply.text}"
                if reply.twice:
                    data += f"{head}Content-Length: 5\r\n\r\nagain"
                writer.write(data.encode())
                await writer.drain()
                if closing:
                    return
        except ConnectionError:
            return
        finally:
            writer.close()

    def _reply(self, asked: Asked) -> Reply:
        _, _api, version, *rest = asked.path.removeprefix(self.prefix).split("/")
        if version not in self.versions:
            return Reply(self.no_such_version, 404)
        answer = self.answers.get((asked.method, "/" + "/".join(rest)))
        if answer is None:
            return Reply('{"errors": [{"error_number": 9000, "error": "not set up"}]}', 500)
        return answer if isinstance(answer, Reply) else answer(asked)

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> Asked | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        parts = urlsplit(target)
        return Asked(method, parts.path, parse_qsl(parts.query), headers, json.loads(body) if body else None)


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


@pytest.fixture
def read_recorded() -> Callable[[str], str]:
    return recorded


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def player() -> AsyncIterator[Player]:
    player = Player()
    player.answers["GET", "/ping/"] = Reply(recorded("rest-ping.json"))
    server = await asyncio.start_server(player.serve, "127.0.0.1", 0)
    player.port = server.sockets[0].getsockname()[1]
    yield player
    server.close()


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@asynccontextmanager
async def a_scheduler(player: Player, clock: Clock, folder: Path, within: float) -> AsyncIterator[RestScheduler]:
    key = folder / "jwt.key"
    key.write_bytes(KEY)
    client = RestClient(f"http://127.0.0.1:{player.port}", Tokens(key, clock.seconds), timeout=within, patience=0.0)
    scheduler = RestScheduler(client, cluster="c", viewer="alice", clock=clock, monotonic=clock.seconds)
    yield scheduler
    await scheduler.close()


@pytest.fixture
async def scheduler(player: Player, clock: Clock, tmp_path: Path) -> AsyncIterator[RestScheduler]:
    async with a_scheduler(player, clock, tmp_path, 60.0) as made:
        yield made


@pytest.fixture
async def hasty(player: Player, clock: Clock, tmp_path: Path) -> AsyncIterator[RestScheduler]:
    """One that does not wait long for an answer: none comes."""
    async with a_scheduler(player, clock, tmp_path, 2.0) as made:
        yield made


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port of this machine on which nobody listens, and nobody can meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def authority(tmp_path: Path) -> Callable[[str], tuple[Path, Path, Path]]:
    """Make a CA, and a certificate by it for a host: the files of the CA, the certificate and its key."""

    def make(host: str) -> tuple[Path, Path, Path]:
        folder = tmp_path / f"tls-{host}"
        folder.mkdir()
        ca, certificate, key = (folder / name for name in ("ca.pem", "host.pem", "host.key"))
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        signed = ["-CA", str(ca), "-CAkey", str(folder / "ca.key"), "-addext", f"subjectAltName=DNS:{host}"]
        for words in (
            ["-subj", "/CN=ca", "-keyout", str(folder / "ca.key"), "-out", str(ca)],
            ["-subj", f"/CN={host}", "-keyout", str(key), "-out", str(certificate), *signed],
        ):
            subprocess.run([*new, "-days", "2", *words], check=True, capture_output=True)
        return ca, certificate, key

    return make
