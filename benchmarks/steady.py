"""Requests at a steady rate, every so many a stream; what failed is told apart by whether its answer had begun."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from benchmarks.environment import Environment

PER_SECOND = 50
#: Every so many is a stream of so many tokens; the others ask for one.
STREAM_EVERY, TOKENS = 10, 24
PATIENCE = 60.0


@dataclass
class Steady:
    """What came of the requests. `failed` had nothing of an answer, `cut` had begun; `longest` is in seconds."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    cut: int = 0
    longest: float = 0.0
    words: list[str] = field(default_factory=list)
    over: bool = False

    @property
    def note(self) -> str:
        told = (
            f"{self.sent} requests at {PER_SECOND}/s, {self.cut} cut after the first byte, longest {self.longest:.1f} s"
        )
        return "; ".join([told, *dict.fromkeys(self.words[:3])])


@asynccontextmanager
async def steady(env: Environment, model: str) -> AsyncIterator[Steady]:
    """The model is asked at this rate until the block is over; all that was sent is answered, or has failed, then."""
    found = Steady()
    limits = httpx.Limits(max_connections=400, max_keepalive_connections=400)
    async with (
        httpx.AsyncClient(headers=env.headers, timeout=PATIENCE, limits=limits, trust_env=False) as http,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(_send(env, http, group, model, found))
        try:
            yield found
        finally:
            found.over = True


async def _send(env: Environment, http: httpx.AsyncClient, group: asyncio.TaskGroup, model: str, found: Steady) -> None:
    began = time.perf_counter()
    while not found.over:
        group.create_task(_ask(f"{env.url}/v1/chat/completions", http, model, found, found.sent % STREAM_EVERY == 0))
        found.sent += 1
        await asyncio.sleep(max(0.0, began + found.sent / PER_SECOND - time.perf_counter()))


async def _ask(url: str, http: httpx.AsyncClient, model: str, found: Steady, stream: bool) -> None:
    message = {"role": "user", "content": "hi"}
    asked = {"model": model, "messages": [message], "max_tokens": TOKENS if stream else 1, "stream": stream}
    began, told, status = time.perf_counter(), b"", 0
    try:
        async with http.stream("POST", url, json=asked) as answer:
            status = answer.status_code
            async for piece in answer.aiter_bytes():
                told = (told + piece)[-256:]
    except httpx.HTTPError as error:
        found.words.append(f"{type(error).__name__}: {error}")
    else:
        if status == httpx.codes.OK and (not stream or b"data: [DONE]" in told):
            found.answered += 1
            found.longest = max(found.longest, time.perf_counter() - began)
            return
        found.words.append(f"{status} {told[-160:].decode(errors='replace')}")
    if status == httpx.codes.OK and told:
        found.cut += 1
    else:
        found.failed += 1
