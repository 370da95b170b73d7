"""Clients as they should be: each gives what it asks for a key, asks again after any doubt, notes what it is told."""

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

Way = Literal["runs", "fails", "stopped", "serves"]
ASK_WITHIN = 15.0
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
LOOK_EVERY = 0.5
TOO_MANY, OUR_FAULT = 429, 500


@dataclass(frozen=True)
class Plan:
    """What one client does with its session: how long its job runs and how it ends, when it is stopped, forgotten.

    One that `serves` is a model server, stopped when it is ready.
    """

    way: Way
    seconds: float = 0.0
    stop_after: float = 0.0
    forget: bool = False


@dataclass
class Told:
    """What a client was told about one session. Times are epoch seconds of this machine, as the client saw them."""

    plan: Plan
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    asked_at: float = 0.0
    id: str = ""
    job_name: str = ""
    job_at: float | None = None
    phase: str = ""
    reason: str = ""
    message: str = ""
    ended_at: float | None = None
    stop_asked: bool = False
    forgotten: bool = False
    wrong: list[str] = field(default_factory=list)

    def hear(self, view: dict[str, Any]) -> None:
        """Take in an answer about the session."""
        now = time.time()
        if self.id not in {"", view["id"]}:
            self.wrong.append(f"one key, two sessions: {self.id} and {view['id']}")
        if self.ended_at is not None and not view["ended"]:
            self.wrong.append(f"read {self.phase}, and later {view['phase']}")
        self.id, self.job_name = view["id"], view["job"]["name"]
        self.phase, self.reason, self.message = view["phase"], view["reason"], view["message"]
        if self.job_at is None and view["job"]["job_id"] is not None:
            self.job_at = now
        if self.ended_at is None and view["ended"]:
            self.ended_at = now


def drawn(chance: random.Random) -> Plan:
    """A plan by lot: most jobs are short, some are stopped at any moment of their life."""
    lot = chance.random()
    forget = chance.random() < 0.5
    if lot < 0.05:
        return Plan("serves", forget=forget)
    if lot < 0.45:
        return Plan("runs", forget=forget)
    if lot < 0.6:
        return Plan("runs", seconds=chance.uniform(2, 15), forget=forget)
    if lot < 0.7:
        return Plan("fails", forget=forget)
    return Plan("stopped", seconds=300, stop_after=chance.choice([0.0, chance.uniform(0, 8)]), forget=forget)


class Clients:
    """Many clients of the same servers. `allowed` is how many sessions may have been asked for by now."""

    def __init__(self, urls: Sequence[str], token: str, chance: random.Random, *, live_at_most: int = 120) -> None:
        self.told: list[Told] = []
        self.allowed = 0
        self._urls = list(urls)
        self._chance = chance
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}"},
            timeout=ASK_WITHIN,
            trust_env=False,
            limits=httpx.Limits(max_connections=200, max_keepalive_connections=50),
        )
        self._places = asyncio.Semaphore(live_at_most)
        self._under_way: set[asyncio.Task[None]] = set()
        self.give_up_at = float("inf")

    async def close(self) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._http.aclose()

    async def go_on(self) -> None:
        """Ask for sessions as far as `allowed`, for ever."""
        while True:
            while len(self.told) >= self.allowed:
                await asyncio.sleep(0.02)
            await self._places.acquire()
            task = self.begin(Told(drawn(self._chance)))
            task.add_done_callback(lambda _: self._places.release())
            await asyncio.sleep(self._chance.uniform(0.0, 0.15))

    def begin(self, told: Told) -> "asyncio.Task[None]":
        """A client more."""
        self.told.append(told)
        task = asyncio.create_task(self._life(told))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def until_done(self, within: float) -> None:
        """Wait for all that are under way; who is not done within so many seconds says what it waits for."""
        self.give_up_at = time.time() + within
        if self._under_way:
            await asyncio.gather(*self._under_way)

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    async def _life(self, told: Told) -> None:
        try:
            await self._session(told)
        except TimeoutError as error:
            told.wrong.append(f"gave up: {error}")

    async def _session(self, told: Told) -> None:
        plan = told.plan
        answers = {"seconds": round(plan.seconds, 1), "code": 3 if plan.way == "fails" else 0}
        wanted = {"recipe": "llama-cpp"} if plan.way == "serves" else {"recipe": "fault", "parameters": answers}
        told.asked_at = time.time()
        made = await self._ask("POST", "/sessions", wanted, key=told.key)
        if made.status_code != 201:
            told.wrong.append(f"asked for, and answered {made.status_code}: {made.text[:300]}")
            return
        told.hear(made.json())
        if plan.way == "serves":
            await self._until_ready(told)
        if plan.way in {"stopped", "serves"} and told.ended_at is None:
            await asyncio.sleep(plan.stop_after)
            told.stop_asked = True
            stopped = await self._ask("POST", f"/sessions/{told.id}/stop")
            if stopped.status_code != 202:
                told.wrong.append(f"stop answered {stopped.status_code}: {stopped.text[:300]}")
        while told.ended_at is None:
            await self._look(told)
        if plan.forget:
            told.forgotten = True
            gone = await self._ask("DELETE", f"/sessions/{told.id}")
            if gone.status_code not in {204, 404}:
                told.wrong.append(f"delete answered {gone.status_code}: {gone.text[:300]}")

    async def _until_ready(self, told: Told) -> None:
        while told.phase != "ready" and told.ended_at is None:
            await self._look(told)

    async def _look(self, told: Told) -> None:
        """After a while. TimeoutError if there is no hope any more."""
        await asyncio.sleep(LOOK_EVERY)
        answer = await self._ask("GET", f"/sessions/{told.id}")
        if answer.status_code != 200:
            raise TimeoutError(f"accepted, and then answered {answer.status_code}: {answer.text[:300]}")
        told.hear(answer.json())
        if told.ended_at is None and time.time() > self.give_up_at:
            raise TimeoutError(f"the session is still {told.phase} ({told.reason} {told.message})")

    async def everything(self) -> list[dict[str, Any]]:
        """Every session that the gateway knows."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            params = "?limit=500" + (f"&cursor={cursor}" if cursor else "")
            page = (await self._ask("GET", f"/sessions{params}")).json()
            found += page["items"]
            cursor = page["next"]
            if cursor is None:
                return found

    async def _ask(self, method: str, path: str, body: Any = None, *, key: str = "") -> httpx.Response:
        """Ask the servers in turn until one gives an answer. TimeoutError when it is time to give up."""
        pause, urls = SHORTEST_PAUSE, self._chance.sample(self._urls, len(self._urls))
        headers = {"Idempotency-Key": key} if key else {}
        turn = 0
        while True:
            why = ""
            try:
                url = f"{urls[turn % len(urls)]}/api/v1{path}"
                answer = await self._http.request(method, url, json=body, headers=headers)
            except httpx.TransportError as error:
                why = repr(error)
            else:
                if answer.status_code != TOO_MANY and answer.status_code < OUR_FAULT:
                    return answer
                why = f"{answer.status_code} {answer.text[:200]}"
            if time.time() > self.give_up_at:
                raise TimeoutError(f"{method} {path}: {why}")
            await asyncio.sleep(pause * self._chance.uniform(0.5, 1.5))
            pause, turn = min(pause * 2, LONGEST_PAUSE), turn + 1
