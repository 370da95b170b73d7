"""Real model servers: streams of llama-server and of vLLM through `/v1`, beside the servers' own sockets.

Each server is a session's job. *Raw* is its Unix socket in the job, which its owner and root alone can connect to; ours
is `/v1` of the gateway, over the agent's mutual-TLS relay. The same load in turn on both, each stream on a connection
of its own. vLLM's image is large: it is built and measured if $SLUICE_BENCH_VLLM is set.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.environment import Environment
from benchmarks.processes import agents_of
from benchmarks.report import Row, percentile
from gateway.cli.image import ensure_image
from gateway.sdk import Sluice
from gateway.settings import load

CONNECTIONS, SECONDS, TURNS, TOKENS = 4, 8.0, 2, 24
READY_WITHIN = 900.0
_CHAT = "/v1/chat/completions"
_SOCKET = "run/service.sock"
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@dataclass(frozen=True)
class Server:
    """A recipe with its answers, and the name that its model has then."""

    recipe: str
    model: str
    parameters: Mapping[str, Any]


LLAMA = Server("llama-cpp", "bench-llama", {"alias": "bench-llama"})
VLLM = Server("vllm", "tiny", {"model": "/opt/models/tiny", "gpus": 0})


@dataclass
class Read:
    """Seconds to the first event and between two events of a stream; streams that were read, and that failed."""

    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    whole: int = 0
    failed: int = 0


def measure(env: Environment) -> Iterator[Row]:
    """llama-server, and vLLM if it is asked for."""
    yield from _server(env, LLAMA)
    if os.environ.get("SLUICE_BENCH_VLLM"):
        asyncio.run(ensure_image(load(env.config), env.cluster.name, "vllm", lambda said: print(f"  {said}")))
        yield from _server(env, VLLM)


def _server(env: Environment, server: Server) -> Iterator[Row]:
    place = urlsplit(env.url)
    with Sluice(env.url, env.token) as sluice:
        session = sluice.sessions.create(server.recipe, parameters=dict(server.parameters))
        try:
            session.wait("ready", timeout=READY_WITHIN)
            own = _socket_of(session.id)
            ways: dict[str, Connect] = {
                "raw": lambda: asyncio.open_unix_connection(own),
                "ours": lambda: asyncio.open_connection(place.hostname, place.port),
            }
            found = {name: Read() for name in ways}
            for _ in range(TURNS):
                for name, connect in ways.items():
                    print(f"  {server.recipe}: {name} ...", flush=True)
                    uvloop.run(_load(connect, _request(server, env.headers), found[name]))
        finally:
            session.stop()
    yield from _rows(server.recipe, found["ours"], found["raw"])


def _rows(name: str, ours: Read, raw: Read) -> Iterator[Row]:
    note = f"{ours.failed} of {ours.whole + ours.failed} streams failed, raw: {raw.failed} of {raw.whole + raw.failed}"
    seconds = TURNS * SECONDS
    yield Row(f"{name}: streams", "1/s", ours.whole / seconds, raw.whole / seconds, note=note)
    for what, mine, theirs in (("first event", ours.first, raw.first), ("gap", ours.gaps, raw.gaps)):
        for share in (0.5, 0.99):
            if mine and theirs:
                told = f"{name}: {what} p{share * 100:.0f}"
                yield Row(told, "ms", percentile(mine, share) * 1000, percentile(theirs, share) * 1000)


def _socket_of(session: str) -> str:
    """The socket of a session's server, as root sees it through the agent: beside the agent's own file."""
    for pid in agents_of(session):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        program = next(word for word in words if word.endswith("/agent.pyz"))
        found = Path(f"/proc/{pid}/root{Path(program).parent}") / _SOCKET
        if found.is_socket():
            return str(found)
    raise RuntimeError(f"the server of session {session} listens on no socket that can be found")


def _request(server: Server, headers: Mapping[str, str]) -> bytes:
    asked = {
        "model": server.model,
        "messages": [{"role": "user", "content": "Tell me of ships."}],
        "max_tokens": TOKENS,
        "stream": True,
    }
    body = json.dumps(asked).encode()
    lines = [f"POST {_CHAT} HTTP/1.1", "Host: bench", "Content-Type: application/json", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


async def _load(connect: Connect, request: bytes, into: Read) -> None:
    until = time.perf_counter() + SECONDS

    async def one() -> None:
        while time.perf_counter() < until:
            try:
                whole = await _stream(connect, request, into)
            except (OSError, asyncio.IncompleteReadError):
                whole = False
            if whole:
                into.whole += 1
            else:
                into.failed += 1

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))


async def _stream(connect: Connect, request: bytes, into: Read) -> bool:
    """One stream to its end; whether it is whole."""
    asked, last, tail = time.perf_counter(), 0.0, b""
    reader, writer = await connect()
    try:
        writer.write(request)
        if not (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 "):
            return False
        while data := await reader.read(1 << 16):
            now, tail = time.perf_counter(), (tail + data)[-64:]
            if b"data: {" in data:
                if last:
                    into.gaps.append(now - last)
                else:
                    into.first.append(now - asked)
                last = now
    finally:
        writer.close()
    return b"[DONE]" in tail
