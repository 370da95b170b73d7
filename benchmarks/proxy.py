"""What the gateway adds to a stream and to a request, beside a direct connection and other proxies in one run.

Every way leads to the same stub server in the same job: straight; through nginx, vllm-router and LiteLLM; through one
process of the client service over the agent's mutual-TLS relay (`/v1`; `/s` to another job of the same server, whose
connections share nothing); and through one without the relay. Then
a bulk download and an upload, and a real llama-server, which closes its connection after each stream without a word.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import bulk
from benchmarks.environment import Environment, until_ready
from benchmarks.hammer import hammer
from benchmarks.nginx import nginx
from benchmarks.numbers import DIRECT, Figures, rows, table
from benchmarks.peers import Missing, free_port, litellm, vllm_router
from benchmarks.processes import agents_of, cost, rest
from benchmarks.report import Row
from benchmarks.streams import streams
from gateway.sdk import Sluice

#: The same server, as a model's and as any other one: connections to the latter are each its own.
MODEL, PAGES = "bench-stub", "bench-pages"
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}).encode()
CONNECTIONS = (1, 16, 128, 1000)
SECONDS, WARM = 2.0, 1.0
#: Every way is measured so often, all of them one after the other in each turn; $SLUICE_BENCH_TURNS sets it otherwise.
TURNS = 3
#: What takes a minute a turn, and is not near anything else, is measured once.
ONCE = frozenset({"LiteLLM"})
#: Connections, events a stream, milliseconds between two events, streams a connection that count.
STREAMS = ((128, 150, 10, 2), (1000, 24, 100, 2))
STREAMS_WITHIN = 12.0
CHAT = "/v1/chat/completions"
#: Streams of a real llama-server: on so many connections, for so many seconds.
LLAMA_CONNECTIONS, LLAMA_SECONDS = 4, 6.0
MEASURED = Path(".benchmarks/proxy.md")


@dataclass(frozen=True)
class Way:
    """One way to the stub: where, whose processes (with all that they start), and who helps by itself."""

    url: str
    pids: tuple[int, ...] = ()
    helpers: tuple[int, ...] = ()


def measure(env: Environment) -> Iterator[Row]:
    """One session of the stub server; $SLUICE_BENCH_PEERS names the peers to measure, if not all."""
    with Sluice(env.url, env.token) as sluice, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-proxy-")))
        session = sluice.sessions.create(MODEL)
        stack.callback(session.stop)
        pages = sluice.sessions.create(PAGES, parameters={"port": 9101})
        stack.callback(pages.stop)
        session.wait("ready", timeout=120)
        pages.wait("ready", timeout=120)
        node = f"{env.cluster.addresses[sluice.sessions.get(session.id).view.job.nodes]}:9100"
        missing: dict[str, str] = {}
        words = ("gateway.cli.main", "serve", "client", "--port")
        ours, pid = stack.enter_context(_client(env, folder, "client", *words))
        apps, apps_pid = stack.enter_context(_client(env, folder, "apps", *words))  # each has a memory of its own
        ways = {DIRECT: Way(f"http://{node}{CHAT}")}
        bare, bare_pid = stack.enter_context(_client(env, folder, "bare", "benchmarks.bare", last=node))
        ways["/v1, no relay"] = Way(f"{bare}{CHAT}", (bare_pid,))
        ways["/v1"] = Way(f"{ours}{CHAT}", (pid,), agents_of(session.id))
        ways["/s"] = Way(f"{apps}/s/{pages.id}{CHAT}", (apps_pid,), agents_of(pages.id))
        ways |= _peers(stack, node, folder, missing)
        figures = _all(ways, env.headers)
        yield from rows(figures)
        for peer, why in missing.items():
            yield Row(f"{peer}: {why}", "", 0.0)
        _keep(table(figures, missing))
        yield from bulk.rows(f"http://{node}", f"{apps}/s/{pages.id}", env.headers, apps_pid)
    with Sluice(env.url, env.token) as sluice, tempfile.TemporaryDirectory(prefix="sluice-proxy-") as place:
        yield from _llama(env, sluice, Path(place))


def _peers(stack: ExitStack, node: str, folder: Path, missing: dict[str, str]) -> Iterator[tuple[str, Way]]:
    """Those that can be had; why not, of the others."""
    found = stack.enter_context(nginx(node, folder))
    if found is None:
        missing["nginx"] = "there is none, and no package of it"
    else:
        yield "nginx", Way(f"{found[0]}{CHAT}", (found[1],))
    peers: Mapping[str, Callable[[str, Path], AbstractContextManager[tuple[str, int]]]] = {
        "vllm-router": vllm_router,
        "LiteLLM": litellm,
    }
    wanted = os.environ.get("SLUICE_BENCH_PEERS", ",".join(peers)).split(",")
    for name, peer in peers.items():
        if name not in wanted:
            missing[name] = "left out"
            continue
        try:
            url, pid = stack.enter_context(peer(node, folder))
        except Missing as error:
            missing[name] = str(error)
        else:
            yield name, Way(f"{url}{CHAT}", (pid,))


@contextmanager
def _client(
    env: Environment, folder: Path, name: str, module: str, *words: str, last: str = ""
) -> Iterator[tuple[str, int]]:
    """A process of the client service by itself; its address and process."""
    port, log = free_port(), folder / f"{name}.log"
    argv = [sys.executable, "-m", module, *words, str(port), *([last] if last else [])]
    with log.open("wb") as file:
        process = subprocess.Popen(argv, env={**os.environ, "SLUICE_CONFIG": str(env.config)}, stdout=file, stderr=file)
    try:
        until_ready(f"http://127.0.0.1:{port}", process, log, "/health/live")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def _all(ways: Mapping[str, Way], headers: dict[str, str]) -> dict[str, Figures]:
    """Every measurement on each way, one after the other, so that what is compared is taken at nearly one time.

    The machine is not equally quiet all the time, so all of it is done in turns, of which the medians count. A proxy
    that is overwhelmed works long after its callers are gone: the next one waits until it has done so.
    """
    figures = {name: Figures() for name in ways}
    turns = int(os.environ.get("SLUICE_BENCH_TURNS", TURNS))
    for turn in range(turns):
        measured = {name: way for name, way in ways.items() if turn == 0 or name not in ONCE}
        for connections, events, gap, rounds in STREAMS:
            for name, way in measured.items():
                print(f"  turn {turn + 1} of {turns}, {connections} streams: {name} ...", flush=True)
                with cost(way.pids, way.helpers) as spent:
                    shape = {"connections": connections, "events": events, "gap": gap, "rounds": rounds}
                    seen = uvloop.run(streams(way.url, headers, **shape, within=STREAMS_WITHIN))
                figures[name].streams.setdefault((connections, 1000 // gap), []).append((seen, spent))
                rest(way.pids)
        for connections in CONNECTIONS:
            for name, way in measured.items():
                print(f"  turn {turn + 1} of {turns}, requests at {connections}: {name} ...", flush=True)
                with cost(way.pids, way.helpers) as spent:
                    asked = hammer(way.url, BODY, headers, connections=connections, seconds=SECONDS, warm=WARM)
                    answered = uvloop.run(asked)
                figures[name].requests.setdefault(connections, []).append((answered, spent))
                rest(way.pids)
    return figures


def _keep(lines: list[str]) -> None:
    print("\n".join(["", "Added to a direct connection: p50 / p99, ms", "", *lines, ""]), flush=True)
    MEASURED.parent.mkdir(exist_ok=True)
    MEASURED.write_text("\n".join([*lines, ""]))


def _llama(env: Environment, sluice: Sluice, folder: Path) -> Iterator[Row]:
    """Streams one after the other on connections that are kept, of a server that closes its own after each."""
    session = sluice.sessions.create("llama-cpp", parameters={"alias": "bench-llama"})
    try:
        session.wait("ready", timeout=120)
        asked = {
            "model": "bench-llama",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 2,
            "stream": True,
        }
        with _client(env, folder, "client", "gateway.cli.main", "serve", "client", "--port") as (url, _):
            body, number = json.dumps(asked).encode(), LLAMA_CONNECTIONS
            load = hammer(f"{url}{CHAT}", body, env.headers, connections=number, seconds=LLAMA_SECONDS, warm=0.0)
            found = uvloop.run(load)
        note = f"{found.sent} streams of llama-server, which closes after each"
        yield Row("/v1: failed streams of llama-server", "streams", found.errors, note=note)
    finally:
        session.stop()
