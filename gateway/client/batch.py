"""One batch, from its first look at the lines to its results, by whoever holds it.

Lines are asked some at a time, as its owner, and each result is written once: a group of them in one durable write.
What a crash leaves undone has no result and is asked again. Memory holds a bounded number of lines, whatever there are.
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeGuard

import structlog
from prometheus_client import Counter

from gateway.client.affinity import kin_of_line
from gateway.client.asking import Broken, Question, Told, ask
from gateway.client.finding import Finding, Gone
from gateway.client.routes import Route
from gateway.core import audit, lines, tasks
from gateway.core.context import Gateway
from gateway.core.lines import BadLine, Check, Kind, Splitter
from gateway.errors import (
    DatabaseUnavailable,
    FileNotFound,
    Forbidden,
    LeaseLost,
    NotReady,
    SluiceError,
    StorageFull,
    Unauthenticated,
    WriteUnknown,
)
from gateway.model.plan import PlannedReplicas
from gateway.model.task import Seen, Task, TaskPhase, step, unasked
from gateway.store import files, results
from gateway.store import tasks as store
from gateway.store.files import CHUNK
from gateway.store.results import Places, Result
from gateway.store.tasks import Grip

if TYPE_CHECKING:
    from gateway.client.plane import Plane
    from gateway.model.principal import Principal

log = structlog.get_logger(__name__)

LOOK, SHORTEST = 1.0, 0.2
#: Results that wait to be written: with more, nothing new is asked.
MOST_WAITING, MOST_WAITING_BYTES = 512, 16 << 20
PLACED_AT_ONCE = 2000
#: What comes within this time is written together.
GROUPING = 0.02
PAUSE, LONGEST_PAUSE = 0.2, 10.0
_NOT_NOW = frozenset({429, 503})
_BAD = 500
_AGAIN = (DatabaseUnavailable, StorageFull, WriteUnknown)
Line = tuple[int, bytes]


@dataclass
class _Waiting:
    """Results that are to be written."""

    found: list[Result] = field(default_factory=list)
    size: int = 0
    closed: bool = False
    some: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, result: Result) -> None:
        self.found.append(result)
        self.size += len(result.body)
        self.some.set()

    def take(self) -> list[Result]:
        """All that wait now; they wait for nobody else any more."""
        found, self.found, self.size = self.found, [], 0
        if not self.closed:
            self.some.clear()
        return found

    def close(self) -> None:
        """No more will come."""
        self.closed = True
        self.some.set()

    @property
    def full(self) -> bool:
        return len(self.found) >= MOST_WAITING or self.size >= MOST_WAITING_BYTES


class Batch:
    """One task, held by `grip`. `run` returns when it has ended, or is somebody else's."""

    def __init__(self, gateway: Gateway, plane: "Plane", grip: Grip, outcomes: Counter) -> None:
        self._gateway, self._plane, self._grip, self._outcomes = gateway, plane, grip, outcomes
        self._limits = gateway.settings.tasks
        self._finding: Finding
        self._caller: Principal
        self._wanted: dict[Route, int] = {}
        self._waits = ""
        self._stop = ""

    async def run(self) -> None:
        while (task := await self._reread()) is not None and not task.phase.ended:
            try:
                seen = await self._work(task)
                await self._step(seen)
            except _AGAIN as error:
                log.warning("a task waits for the database", task=task.id, error=error.message)
                await asyncio.sleep(LOOK)
            except LeaseLost as error:
                log.info("a task is another's now", task=task.id, why=error.message)
                return
            except (FileNotFound, BadLine) as error:
                await self._step(Seen(refused=f"its input cannot be read any more: {error.message}"))

    async def _work(self, task: Task) -> Seen:
        match task.phase:
            case TaskPhase.VALIDATING:
                return await self._look(task)
            case TaskPhase.IN_PROGRESS:
                return await self._ask(task)
            case _:
                return Seen(assembled=await self._assemble(task))

    async def _reread(self) -> Task | None:
        while True:
            try:
                return await self._gateway.db.read(store.reread, self._grip.task)
            except DatabaseUnavailable:
                await asyncio.sleep(LOOK)

    async def _step(self, seen: Seen) -> None:
        """Write down what follows, if anything does; a task that changed meanwhile is looked at anew."""
        task = await self._reread()
        if task is None:
            return
        after = step(task, seen, self._gateway.clock())
        if after is not task:
            await self._gateway.db.write(store.save, task, after, self._grip)
            self._gateway.news.ring()
            log.info("task", task=task.id, phase=after.phase, before=task.phase, message=after.message)

    # Its lines

    async def _look(self, task: Task) -> Seen:
        """Whether every line can be asked."""
        check = Check(_kind(task), self._limits.line_bytes, self._limits.most_lines)
        async with aclosing(self._content(task)) as pieces:
            async for data in pieces:
                await asyncio.to_thread(check.feed, data)
        check.end()
        return Seen(faults=check.faults) if check.faults else Seen(lines=check.lines)

    async def _content(self, task: Task) -> AsyncGenerator[bytes, None]:
        size = await self._gateway.db.read(files.length, task.input_file)
        for number in range(-(-size // CHUNK)):
            yield await self._gateway.db.read(files.piece, task.input_file, number)

    async def _left(self, task: Task) -> AsyncGenerator[Line, None]:
        """The lines that have no result yet, in their order."""
        splitter = Splitter(self._limits.line_bytes)
        async with aclosing(self._content(task)) as pieces:
            async for data in pieces:
                for line in await self._undone(task, list(splitter.feed(data))):
                    yield line
        for line in await self._undone(task, list(splitter.end())):
            yield line

    async def _undone(self, task: Task, found: list[Line]) -> list[Line]:
        if not found or not task.done:
            return found
        known = await self._gateway.db.read(results.done, task.id, found[0][0], found[-1][0])
        return [line for line in found if line[0] not in known]

    # Asking

    async def _ask(self, task: Task) -> Seen:
        """Ask until all is asked, or something else follows."""
        try:
            self._caller = await self._gateway.db.read(tasks.acting, task)
        except (Unauthenticated, Forbidden) as error:
            return Seen(refused=error.message)
        self._finding = Finding(self._gateway, self._plane, task.session)
        self._stop, self._waits = "", task.message
        waiting = _Waiting()
        keeper = asyncio.create_task(self._keep(waiting))
        try:
            async with aclosing(self._left(task)) as left:
                exhausted = await self._ask_all(task, left, waiting, keeper)
                waiting.close()
            await keeper
        finally:
            self._want(0)
            keeper.cancel()
            await asyncio.wait({keeper})
        if self._stop:
            return Seen(refused=self._stop)
        after = await self._reread()
        if exhausted and after is not None and after.total is not None and after.done < after.total:
            return Seen(refused="its input is not as it was")
        return Seen()

    async def _ask_all(
        self, task: Task, left: AsyncGenerator[Line, None], waiting: _Waiting, keeper: "asyncio.Task[None]"
    ) -> bool:
        """Whether every line has been asked; without, the task is to be looked at."""
        loop, running = asyncio.get_running_loop(), set[asyncio.Task[Result]]()
        exhausted, look_at = False, loop.time() + LOOK
        stopped = loop.create_task(asks_no_more(self._gateway, task.id))
        try:
            while not (self._stop or stopped.done() or (exhausted and not running)):
                while not exhausted and not waiting.full and len(running) < self._most(task, len(running)):
                    line = await anext(left, None)
                    if stopped.done():
                        break
                    if line is None:
                        exhausted = True
                    else:
                        running.add(loop.create_task(self._line(task, *line)))
                await asyncio.wait(
                    {stopped, *running}, timeout=LOOK if running else PAUSE, return_when=asyncio.FIRST_COMPLETED
                )
                done = {one for one in running if one.done()}
                running -= done
                for one in done:
                    waiting.add(one.result())
                for beside in (keeper, stopped):
                    if beside.done():
                        beside.result()
                if loop.time() >= look_at:
                    look_at = loop.time() + LOOK
                    if not await self._goes_on(task, len(running)):
                        return False
            return exhausted and not running and not self._stop
        finally:
            for other in (stopped, *running):
                other.cancel()
            await asyncio.wait({stopped, *running})

    async def _goes_on(self, task: Task, running: int) -> bool:
        """Whether there is still a point in asking: not cancelled, not too late, and its owner still may."""
        now = await self._reread()
        if now is None or now.phase is not TaskPhase.IN_PROGRESS or self._gateway.clock() >= now.expires_at:
            return False
        most = task.concurrency or (now.total or 0)
        self._want(max(0, min((now.total or 0) - now.done, most) - running))
        try:
            self._caller = await self._gateway.db.read(tasks.acting, task)
        except (Unauthenticated, Forbidden) as error:
            self._stop = error.message
            return False
        except DatabaseUnavailable:
            return True
        if now.message != self._waits:
            said = now.model_copy(update={"message": self._waits})
            await self._gateway.db.write(store.save, now, said, self._grip)
        return True

    def _most(self, task: Task, running: int) -> int:
        """How many lines may be under way now: callers who wait for their answers go first."""
        routes = self._finding.known
        if not all(self._plane.limits.room(route) for route in routes):
            return running
        most = sum(self._share(route.service.max_in_flight, route) for route in routes) or 1
        return min(most, task.concurrency or most)

    def _share(self, most: int | None, route: Route) -> int:
        """What a session's replicas are asked at once."""
        number, asked = len(route.members), route.service.replicas
        if not number:
            return 1
        each = asked.target_in_flight if _grows(asked) else self._limits.per_replica
        if most is not None:
            each = min(each, max(1, most // 2))
        return number * each

    def _want(self, left: int) -> None:
        """Say of each session that may have more replicas how many more lines there are: by that they are started."""
        routes, before = list(self._finding.known), self._wanted
        each = -(-left // (len(routes) or 1))
        self._wanted = {
            route: min(each, asked.max * asked.target_in_flight)
            for route in routes
            if _grows(asked := route.service.replicas)
        }
        for route in {*before, *self._wanted}:
            route.backlog += self._wanted.get(route, 0) - before.get(route, 0)

    async def _line(self, task: Task, number: int, raw: bytes) -> Result:
        """What becomes of one line. It is asked until it has an answer, or has gone wrong too often."""
        try:
            request = lines.read(number, raw, _kind(task))
        except BadLine as bad:
            return self._result(number, *lines.refused(task.id, number, f"line-{number}", bad.code, bad.message))
        question = Question(request.endpoint, request.body, f"{task.id}-{number}")
        pause, tries, code, why = PAUSE, 0, "", ""
        told: Told | None = None
        while tries < self._limits.tries:
            after = 0.0
            try:
                routes = await self._finding.serving(self._caller, request.model)
                kin = kin_of_line(routes[0].service.affinity, request.body) if not tries else None
                told = await ask(self._plane, self._caller, routes, question, kin)
                self._waits, after = "", told.after
                if told.status not in _NOT_NOW and told.status < _BAD:
                    break
                tries += told.status not in _NOT_NOW
            except Broken as error:
                tries, code, why = tries + 1, "upstream_closed", error.message
            except (Gone, Forbidden) as error:
                code = self._not_for_us(task, request.endpoint, error)
                if task.session is None:  # another line may name another model
                    return self._result(number, *lines.refused(task.id, number, request.custom_id, code, error.message))
                self._stop = self._stop or error.message
            except NotReady as error:
                self._waits = error.message
            except SluiceError as error:
                if not error.retryable:
                    return self._result(
                        number, *lines.refused(task.id, number, request.custom_id, error.code, error.message)
                    )
                after = float(error.details.get("retry_after", 0))
            if self._stop:
                await asyncio.Event().wait()  # whoever asks for the lines ends this one
            self._outcomes.labels("again").inc()
            await asyncio.sleep(max(after, pause * (0.5 + random.random())))  # noqa: S311 - so that not all come at once
            pause = min(pause * 2, LONGEST_PAUSE)
        if told is None:
            return self._result(number, *lines.refused(task.id, number, request.custom_id, code, why))
        return self._result(
            number, *lines.answered(task.id, number, request.custom_id, told.status, question.id, told.body)
        )

    def _not_for_us(self, task: Task, endpoint: str, error: Gone | Forbidden) -> str:
        """The code of it. A denial is told as that of a caller is."""
        if isinstance(error, Gone):
            return "model_not_found"
        told = audit.by(self._gateway, self._caller)
        audit.refused(self._gateway, told, error, f"POST {endpoint}", "task", task.id, project=task.project)
        return error.code

    def _result(self, number: int, ok: bool, body: bytes) -> Result:
        self._outcomes.labels("answered" if ok else "failed").inc()
        return Result(number, ok, body)

    # Writing

    async def _keep(self, waiting: _Waiting) -> None:
        """Write results down as they come, until there will be no more. LeaseLost."""
        while not waiting.closed or waiting.found:
            await waiting.some.wait()
            await self._flush(waiting)
            await asyncio.sleep(GROUPING)

    async def _flush(self, waiting: _Waiting) -> None:
        """Write what waits. After any doubt it is written again: what is there already stays as it is."""
        group = waiting.take()
        while group:
            try:
                await self._gateway.db.write(results.keep, self._grip, group)
            except _AGAIN as error:
                log.warning("results wait for the database", task=self._grip.task, error=error.message)
                await asyncio.sleep(LOOK)
            else:
                return

    async def _assemble(self, task: Task) -> tuple[str | None, str | None]:
        """Put the results in their order: say of each where it begins, and make the files that show them."""
        await self._give_up(task)
        places = Places()
        while True:
            found = await self._gateway.db.write(results.place, self._grip, places, PLACED_AT_ONCE)
            if found is None:
                break
            places = found
        return await tasks.show(self._gateway, task, self._grip, places)

    async def _give_up(self, task: Task) -> None:
        """Lines that will not be asked any more have that for their result: none is left out."""
        if task.total is None or task.whole:
            return
        found, (code, message) = list[Result](), unasked(task)
        try:
            async with aclosing(self._left(task)) as left:
                async for number, raw in left:
                    custom_id = lines.read(number, raw, _kind(task)).custom_id
                    found.append(Result(number, *lines.refused(task.id, number, custom_id, code, message)))
                    if len(found) >= PLACED_AT_ONCE:
                        await self._gateway.db.write(results.keep, self._grip, found)
                        found = []
        except (FileNotFound, BadLine) as error:
            log.warning("lines cannot be read", task=task.id, error=error.message)
        if found:
            await self._gateway.db.write(results.keep, self._grip, found)


async def asks_no_more(gateway: Gateway, task_id: str) -> None:
    """Return as soon as nothing is to be asked for a task any more: whoever cancels it tells so, no clock is needed."""
    while True:
        heard = gateway.news.listen()
        try:
            if await gateway.db.read(store.phase, task_id) is not TaskPhase.IN_PROGRESS:
                return
        except DatabaseUnavailable as error:
            log.warning("whether a task goes on is not known", task=task_id, error=error.message)
        await asyncio.sleep(SHORTEST)  # much news at once is one look
        await gateway.news.wait(None, heard)


def _grows(asked: PlannedReplicas | None) -> TypeGuard[PlannedReplicas]:
    """Whether there may be more replicas with more to do."""
    return asked is not None and asked.max > asked.min


def _kind(task: Task) -> Kind:
    return Kind(task.endpoint, targeted=task.session is not None)
