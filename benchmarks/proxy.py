"""Latency that the gateway adds: /v1 and /s, through the agent's mutual-TLS relay, beside a direct connection."""

import asyncio
import json
from collections.abc import Iterator

from benchmarks.environment import Environment
from benchmarks.load import load
from benchmarks.report import Row, percentile
from gateway.sdk import Sluice

BODY = json.dumps({"model": "bench-stub", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}).encode()
REQUESTS = {1: 500, 16: 4000, 128: 8000}


def measure(env: Environment) -> Iterator[Row]:
    """One session of a stub server; percentiles at 1, 16 and 128 connections."""
    with Sluice(env.url, env.token) as sluice:
        session = sluice.sessions.create("bench-stub")
        session.wait("ready", timeout=120)
        try:
            node = env.cluster.addresses[sluice.sessions.get(session.id).view.job.nodes]
            ways = {
                "direct": f"http://{node}:9100/v1/chat/completions",
                "/v1": f"{env.url}/v1/chat/completions",
                "/s": f"{env.url}/s/{session.id}/v1/chat/completions",
            }
            for connections, requests in REQUESTS.items():
                yield from _at(ways, env.headers, connections, requests)
        finally:
            session.stop()


def _at(ways: dict[str, str], headers: dict[str, str], connections: int, requests: int) -> Iterator[Row]:
    results = {
        way: asyncio.run(load(url, BODY, headers=headers, connections=connections, requests=requests))
        for way, url in ways.items()
    }
    direct = results.pop("direct")
    for way, result in results.items():
        failed = f", {result.errors} failed" if result.errors else ""
        for share in (0.5, 0.99):
            ours, raw = (percentile(r.seconds, share) * 1000 for r in (result, direct))
            yield Row(
                f"{way} p{share * 100:.0f} at {connections}", "ms", ours, raw, note=f"+{ours - raw:.2f} ms {failed}"
            )
        ours, raw = (len(r.seconds) / r.took for r in (result, direct))
        yield Row(f"{way} requests at {connections}", "1/s", ours, raw)
