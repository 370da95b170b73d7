"""What the gateway adds: /v1 and /s, through the agent's mutual-TLS relay, beside a direct connection in one run."""

import json
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import uvloop

from benchmarks.environment import Environment
from benchmarks.load import load
from benchmarks.nginx import nginx
from benchmarks.report import Row, percentile
from benchmarks.streams import Streams, streams
from gateway.sdk import Sluice

BODY = json.dumps({"model": "bench-stub", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}).encode()
REQUESTS = {1: 2000, 16: 20_000, 128: 20_000, 1000: 20_000}
#: Connections, events a stream, milliseconds between two events, streams a connection.
STREAMS = ((128, 200, 10, 4), (1000, 32, 100, 3))
DOWNLOAD = 1 << 30


def measure(env: Environment) -> Iterator[Row]:
    """One session of a stub server."""
    with Sluice(env.url, env.token) as sluice, tempfile.TemporaryDirectory(prefix="sluice-nginx-") as folder:
        session = sluice.sessions.create("bench-stub")
        session.wait("ready", timeout=120)
        try:
            node = env.cluster.addresses[sluice.sessions.get(session.id).view.job.nodes]
            ways = {
                "direct": f"http://{node}:9100/v1/chat/completions",
                "/v1": f"{env.url}/v1/chat/completions",
                "/s": f"{env.url}/s/{session.id}/v1/chat/completions",
            }
            with nginx(f"{node}:9100", Path(folder)) as beside:
                if beside is not None:
                    ways["nginx"] = f"{beside}/v1/chat/completions"
                for connections, requests in REQUESTS.items():
                    yield from _requests(ways, env.headers, connections, requests)
                for shape in STREAMS:
                    yield from _streams(env, ways, *shape)
            yield from _download(env, f"http://{node}:9100", f"{env.url}/s/{session.id}")
        finally:
            session.stop()


def _requests(ways: dict[str, str], headers: dict[str, str], connections: int, requests: int) -> Iterator[Row]:
    results = {
        way: uvloop.run(load(url, BODY, headers=headers, connections=connections, requests=requests))
        for way, url in ways.items()
    }
    direct = results.pop("direct")
    for way, result in results.items():
        failed = f", {result.errors} failed"
        for share in (0.5, 0.99):
            ours, raw = (percentile(r.seconds, share) * 1000 for r in (result, direct))
            yield Row(
                f"{way} p{share * 100:.0f} at {connections}", "ms", ours, raw, note=f"+{ours - raw:.2f} ms{failed}"
            )
        ours, raw = (len(r.seconds) / r.took for r in (result, direct))
        yield Row(f"{way} requests at {connections}", "1/s", ours, raw)


def _streams(
    env: Environment, ways: dict[str, str], connections: int, events: int, gap: int, rounds: int
) -> Iterator[Row]:
    found: dict[str, Streams] = {}
    cpu = 0.0
    for way in [way for way in ways if way != "/s"]:
        before = _cpu(env.pid)
        found[way] = uvloop.run(
            streams(ways[way], env.headers, connections=connections, events=events, gap=gap, rounds=rounds)
        )
        cpu = _cpu(env.pid) - before if way == "/v1" else cpu
    what = f"{connections} streams x {1000 // gap} events/s"
    ours, direct = found["/v1"], found.pop("direct")
    for way, result in found.items():
        failed = f", {result.errors} of {result.streams} failed"
        for name, mine, raw in (("first event", result.first, direct.first), ("event", result.transit, direct.transit)):
            for share in (0.5, 0.99):
                a, b = (percentile(values, share) * 1000 for values in (mine, raw))
                yield Row(f"{way} {what}: {name} p{share * 100:.0f}", "ms", a, b, note=f"+{a - b:.2f} ms{failed}")
    yield Row(f"{what}: CPU of the gateway", "us/event", cpu * 1e6 / (ours.streams * events))
    yield Row(f"{what}: memory of the gateway", "MB", _memory(env.pid))


def _download(env: Environment, direct: str, ours: str) -> Iterator[Row]:
    rates = {}
    for way, url in (("direct", direct), ("/s", ours)):
        request = urllib.request.Request(f"{url}/download/{DOWNLOAD}", headers=env.headers)  # noqa: S310 - our own
        began, got = time.perf_counter(), 0
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            while piece := answer.read(1 << 20):
                got += len(piece)
        rates[way] = got / (time.perf_counter() - began) / 1e6
        assert got == DOWNLOAD
    yield Row(
        "/s download", "MB/s", rates["/s"], rates["direct"], note=f"memory of the gateway {_memory(env.pid):.0f} MB"
    )


def _cpu(pid: int) -> float:
    """Seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _memory(pid: int) -> float:
    """Resident megabytes of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
