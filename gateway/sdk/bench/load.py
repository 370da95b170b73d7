"""One stage of a run: requests are sent as its load says, and what becomes of each is kept.

The loop is our own, and short: load generators that are well kept either bring a world of their own (Locust: gevent;
guidellm and vLLM's benchmark: transformers and a tokenizer) or have no token in their figures (wrk, k6, oha).
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any

from gateway.model.bench import INTERRUPTED, Generator, Load, Sample
from gateway.model.bench_figures import TICK
from gateway.model.histogram import Histogram
from gateway.sdk.bench.answer import Answer
from gateway.sdk.bench.connection import Pool, Target

_LOOK = 0.05
_PAUSE = 0.1


@dataclass(frozen=True)
class Call:
    """How one request is sent. `token` is asked each time: it may be renewed meanwhile."""

    target: Target
    path: str
    token: Callable[[], str | None]
    timeout: float

    def message(self, body: bytes) -> bytes:
        return self.target.request(self.path, self.token(), body)


@dataclass
class Tally:
    """What has come until now; for progress, and in the end for the figures."""

    samples: list[Sample] = field(default_factory=list)
    gaps: Histogram = field(default_factory=Histogram)
    ticks: dict[int, int] = field(default_factory=dict)
    in_flight: int = 0
    failed: int = 0
    pieces: int = 0


def arrivals(load: Load, dice: random.Random) -> Iterator[float]:
    """When requests of an open loop are due, in seconds from its start: Poisson, or gamma-distributed intervals.

    As `vllm bench serve --request-rate --burstiness`, without its stretching to an exact mean.
    """
    at, rate = 0.0, load.rate or 1.0
    while True:
        at += dice.gammavariate(load.burstiness, 1 / (rate * load.burstiness))
        yield at


class Stage:
    """Sends requests until so many are sent, or so many seconds are over; then waits for the answers under way."""

    def __init__(self, call: Call, bodies: Iterator[bytes], pool: Pool) -> None:
        self._call, self._bodies, self._pool = call, bodies, pool
        self._began = perf_counter()
        self.tally = Tally()

    def came(self, now: float, pieces: int) -> None:
        """Pieces of some answer came."""
        tally = self.tally
        tally.pieces += pieces
        tick = int((now - self._began) / TICK)
        tally.ticks[tick] = tally.ticks.get(tick, 0) + pieces

    async def alone(self) -> Answer:
        """One request."""
        answer = Answer()
        await self._one(self._now(), answer)
        return answer

    async def closed(self, concurrency: int, requests: int | None, seconds: float | None) -> None:
        """So many at any time."""
        left = iter(range(requests)) if requests is not None else None

        async def one_after_the_other() -> None:
            while seconds is None or self._now() < seconds:
                if left is not None and next(left, None) is None:
                    return
                if not await self._one(self._now()):
                    await asyncio.sleep(_PAUSE)

        self._began = perf_counter()
        await self._all([asyncio.ensure_future(one_after_the_other()) for _ in range(concurrency)])

    async def open(self, due: Iterator[float], requests: int | None, seconds: float | None) -> None:
        """When each is due, whatever became of those before."""
        self._began = perf_counter()
        tasks: set[asyncio.Task[bool]] = set()
        try:
            for number, moment in enumerate(due):
                if (requests is not None and number >= requests) or (seconds is not None and moment >= seconds):
                    break
                await asyncio.sleep(max(0.0, moment - self._now()))
                task = asyncio.ensure_future(self._one(moment))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except asyncio.CancelledError:
            await _end(tasks)
            raise
        await self._all(list(tasks))

    async def _all(self, tasks: "list[asyncio.Task[Any]]") -> None:
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            await _end(tasks)
            raise

    async def _one(self, due: float, answer: Answer | None = None) -> bool:
        """Send one, and keep what became of it: whatever goes wrong is its kind of error. Whether it was answered."""
        answer, tally = answer or Answer(), self.tally
        sent, connection = due, None
        message = self._call.message(next(self._bodies))
        tally.in_flight += 1
        try:
            async with asyncio.timeout(self._call.timeout):
                connection = await self._pool.take()
                sent = self._now()
                await connection.ask(message, answer)
        except TimeoutError:
            answer.ended(perf_counter(), "timed out")
        except OSError as error:
            answer.ended(perf_counter(), f"not connected: {error.strerror or type(error).__name__}")
        except asyncio.CancelledError:
            answer.fault = None
            answer.ended(perf_counter(), INTERRUPTED)
            raise
        finally:
            tally.in_flight -= 1
            if connection is not None:
                self._pool.give(connection)
            self._keep(answer, due, sent)
        return answer.fault is None

    def _keep(self, answer: Answer, due: float, sent: float) -> None:
        began = self._began
        answer.end -= began
        if answer.first is not None:
            answer.first -= began
        sample = answer.sample(due, sent)
        self.tally.samples.append(sample)
        if sample.error is None:
            for gap in answer.gaps:
                self.tally.gaps.add(gap)
        else:
            self.tally.failed += sample.error != INTERRUPTED

    def _now(self) -> float:
        return perf_counter() - self._began


async def _end(tasks: "Iterable[asyncio.Task[Any]]") -> None:
    """Those under way are let go of, and have told so when this returns."""
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def watched(pool: Pool) -> AsyncIterator[Callable[[], Generator]]:
    """Looks at ourselves meanwhile: a generator that is busy tells its own times, and not the server's."""
    late = Histogram()

    async def look() -> None:
        while True:
            before = perf_counter()
            await asyncio.sleep(_LOOK)
            late.add(max(0.0, perf_counter() - before - _LOOK))

    began, used, opened = perf_counter(), process_time(), pool.opened

    def told() -> Generator:
        return Generator(
            cpu=round((process_time() - used) / max(perf_counter() - began, 1e-9), 3),
            lag_p99=round(late.percentiles([0.99])[0], 6) if late.count else 0.0,
            connections=pool.opened - opened,
        )

    task = asyncio.ensure_future(look())
    try:
        yield told
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
