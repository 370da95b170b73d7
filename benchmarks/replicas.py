"""What the end of a replica costs: one is killed under load, again and again, and one job takes over from another."""

import asyncio
import re
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx

from benchmarks.environment import REPLICAS, Environment
from benchmarks.report import Row, percentile
from gateway.sdk import Sluice

RECIPE = "bench-replicas"
PER_SECOND = 50
KILLS = 5
WITHIN = 120.0
BODY = {"model": RECIPE, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
_FIT = re.compile(r'^sluice_proxy_endpoints\{state="fit"\} (\d+)', re.MULTILINE)


def measure(env: Environment) -> Iterator[Row]:
    """One session of the stub server with several jobs, at 50 requests/s."""
    with Sluice(env.url, env.token) as sluice:
        session = sluice.sessions.create(RECIPE, parameters={"port": 0})
        session.wait("ready", timeout=WITHIN)
        try:
            _until(lambda: _fit(env) == REPLICAS)
            yield from asyncio.run(_kills(env))
            yield from asyncio.run(_update(env, session.id))
        finally:
            session.stop()


async def _kills(env: Environment) -> list[Row]:
    seconds: list[float] = []
    async with asyncio.TaskGroup() as group:
        load = _Load(env)
        task = group.create_task(load.run())
        for _ in range(KILLS):
            await asyncio.to_thread(_until, lambda: _fit(env) == REPLICAS)
            seconds.append(await asyncio.to_thread(_kill, env))
        await asyncio.sleep(1)
        load.over = True
        await task
    note = f"{KILLS} kills, {load.sent} requests at {PER_SECOND}/s; p50 {statistics.median(seconds):.3f} s"
    return [
        Row("killed replica: failed requests", "requests", load.failed, note=note),
        Row("job death to endpoint withdrawn p99", "s", percentile(seconds, 0.99), note="from when it was killed"),
    ]


async def _update(env: Environment, session: str) -> list[Row]:
    """A job with another time limit takes over from one that drains and ends, as before the end of that one's time."""
    before = await asyncio.to_thread(_jobs, env)
    async with asyncio.TaskGroup() as group:
        load = _Load(env)
        task = group.create_task(load.run())
        began = time.perf_counter()
        async with httpx.AsyncClient(headers=env.headers, timeout=30) as http:
            answer = await http.post(f"{env.url}/api/v1/sessions/{session}/update", json={"resources": {"time": "50m"}})
            answer.raise_for_status()
        await asyncio.to_thread(_until, lambda: bool(before - _jobs(env)) and _fit(env) == REPLICAS == len(_jobs(env)))
        took = time.perf_counter() - began
        load.over = True
        await task
    note = f"{load.sent} requests at {PER_SECOND}/s, done in {took:.0f} s"
    return [Row("renewal: failed requests", "requests", load.failed, note=note)]


class _Load:
    """Requests at a steady rate, whatever becomes of them."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self.over = False
        self.sent = self.failed = 0

    async def run(self) -> None:
        async with httpx.AsyncClient(headers=self._env.headers, timeout=30) as http, asyncio.TaskGroup() as group:
            began = time.perf_counter()
            while not self.over:
                group.create_task(self._one(http))
                self.sent += 1
                await asyncio.sleep(max(0.0, began + self.sent / PER_SECOND - time.perf_counter()))

    async def _one(self, http: httpx.AsyncClient) -> None:
        status = 0
        with suppress(httpx.HTTPError):
            status = (await http.post(f"{self._env.url}/v1/chat/completions", json=BODY)).status_code
        self.failed += status != 200


def _kill(env: Environment) -> float:
    """Kill every process of one job; seconds until nothing is sent to it any more."""
    job = min(_jobs(env))
    began = time.perf_counter()
    env.cluster.exec("login", ["scancel", "--signal=KILL", "--full", str(job)], user="alice")
    _until(lambda: _fit(env) < REPLICAS)
    return time.perf_counter() - began


def _jobs(env: Environment) -> set[int]:
    words = ["squeue", "-h", "-t", "R", "-o", "%A %j"]
    lines = env.cluster.exec("login", words, user="alice").stdout.splitlines()
    return {int(line.split()[0]) for line in lines if line.split()[1].startswith("sluice-")}


def _fit(env: Environment) -> int:
    """Endpoints that get requests, as the gateway counts them."""
    request = urllib.request.Request(f"{env.url}/api/v1/metrics", headers=env.headers)  # noqa: S310 - our own address
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        found = _FIT.search(answer.read().decode())
    return int(found[1]) if found else 0


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + WITHIN
    while not done():
        assert time.monotonic() < end, f"not within {WITHIN:g} s"
        time.sleep(0.01)
