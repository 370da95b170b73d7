"""A whole run: find out how the model counts, warm up, put each load on the session, make the report."""

import asyncio
import contextlib
import random
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from gateway import errors
from gateway.errors import SluiceError
from gateway.model.api import ReplicaView, SessionView
from gateway.model.bench import INTERRUPTED, Environment, Load, Report, Sample, Workload
from gateway.model.bench import Stage as StageReport
from gateway.model.bench_figures import figures, series
from gateway.sdk import trust, wire
from gateway.sdk._async.client import AsyncSluice
from gateway.sdk.bench.answer import Answer
from gateway.sdk.bench.connection import Pool, Target
from gateway.sdk.bench.load import Call, Stage, Tally, arrivals, watched
from gateway.sdk.bench.prompts import Prompts

_RENEWAL = 10.0
_REFUSED = {400, 401, 403, 404, 405, 413, 422}
_OPEN_WARMUP = 8


@dataclass(frozen=True)
class Plan:
    """What shall be measured. `warmup` requests come before each stage; None: as many as are under way at once."""

    session: str
    loads: Sequence[Load]
    workload: Workload
    prompts: Sequence[Mapping[str, Any]] = ()
    warmup: int | None = None
    timeout: float = 600.0
    label: str = ""


@dataclass
class Now:
    """Where a run is, for who watches it."""

    stage: int = 0
    stages: int = 0
    load: Load | None = None
    warming: bool = False
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class Run:
    """The report, and every request by stage."""

    report: Report
    samples: Sequence[Sequence[Sample]]


async def measure(
    url: str | None,
    token: str | None,
    plan: Plan,
    *,
    ca: trust.Ca = None,
    now: Now | None = None,
    stop: asyncio.Event | None = None,
) -> Run:
    """Put the loads of the plan on a session, one after the other.

    `stop` ends it early, with what was measured until then. What the gateway refuses before anything is measured is
    raised: SessionNotFound, NotReady, Unauthenticated, Invalid (a prompt that is too long), ....
    """
    _many_files()
    async with AsyncSluice(url, token, ca=ca) as sluice:
        session = await sluice.sessions.get(plan.session)
        if session.model is None:
            raise errors.Conflict(f"session {session.name} serves no model", hint=f"sluice show {session.name}")
        runner = _Runner(sluice, session.view, plan, Target.of(sluice.url, trust.verify(ca)), now or Now())
        keeper = asyncio.ensure_future(runner.keep_token())
        try:
            return await runner.run(stop or asyncio.Event())
        finally:
            runner.pool.close()
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper


class _Runner:
    def __init__(self, sluice: AsyncSluice, view: SessionView, plan: Plan, target: Target, now: Now) -> None:
        self._sluice, self._view, self._plan, self._now = sluice, view, plan, now
        path = "/v1/completions" if plan.workload.endpoint == "completions" else "/v1/chat/completions"
        self._call = Call(target, path, lambda: sluice.token, plan.timeout)
        self._prompts = Prompts(plan.workload, view.id, plan.prompts)
        self._dice = random.Random(plan.workload.seed)  # noqa: S311 -- to be repeated, not to be secret
        self.pool = Pool(target)

    async def keep_token(self) -> None:
        """A token that is renewed is so by what goes through the SDK: now and then something does."""
        while True:
            await asyncio.sleep(_RENEWAL)
            with contextlib.suppress(SluiceError):
                await self._sluice.alive()

    async def run(self, stop: asyncio.Event) -> Run:
        began = datetime.now(UTC)
        environment = await self._environment()
        stages: list[StageReport] = []
        samples: list[list[Sample]] = []
        work = asyncio.ensure_future(self._stages(stages, samples))
        asked = asyncio.ensure_future(stop.wait())
        await asyncio.wait([work, asked], return_when=asyncio.FIRST_COMPLETED)
        interrupted = not work.done()
        work.cancel()
        asked.cancel()
        try:
            await work
        except asyncio.CancelledError:
            if not interrupted:
                raise
        report = Report(
            id=f"{began:%Y%m%d-%H%M%S}-{self._view.name}",
            label=self._plan.label,
            began_at=began,
            ended_at=datetime.now(UTC),
            interrupted=interrupted,
            environment=environment,
            workload=self._plan.workload,
            stages=tuple(stages),
        )
        return Run(report, samples)

    async def _stages(self, stages: list[StageReport], samples: list[list[Sample]]) -> None:
        await self._prepare()
        self._now.stages = len(self._plan.loads)
        for number, load in enumerate(self._plan.loads, start=1):
            self._now.stage, self._now.load, self._now.warming = number, load, True
            warm = await self._warm_up(load)
            replicas = await self._ready_jobs()
            stage = Stage(self._call, self._prompts.bodies(), self.pool)
            self.pool.came = stage.came
            self._now.tally, self._now.warming = stage.tally, False
            began = datetime.now(UTC)
            async with watched(self.pool) as looked:
                try:
                    await self._put(load, stage)
                finally:  # also when it is interrupted: what was measured is kept
                    tally = stage.tally
                    if any(sample.error != INTERRUPTED for sample in tally.samples):
                        samples.append(tally.samples)
                        stages.append(
                            StageReport(
                                load=load,
                                began_at=began,
                                warmup=len(warm.samples),
                                warmup_failed=warm.failed,
                                replicas=replicas,
                                figures=figures(tally.samples, tally.gaps, self._plan.workload.slo),
                                series=series(tally.samples, tally.ticks),
                                generator=looked(),
                            )
                        )

    async def _put(self, load: Load, stage: Stage) -> None:
        workload = self._plan.workload
        if load.kind == "closed":
            await stage.closed(load.concurrency or 1, workload.requests, workload.seconds)
        else:
            await stage.open(arrivals(load, self._dice), workload.requests, workload.seconds)

    async def _prepare(self) -> None:
        """How many words make the prompt that was asked for, by the server's own count; what is refused is raised."""
        asked = self._plan.workload.prompt_tokens
        if self._prompts.synthetic and asked:
            self._prompts.words = max(1, asked // 4)
            few, few_words = await self._probe(1), self._prompts.words
            self._prompts.words = few_words + max(1, asked // 2)
            more, more_words = await self._probe(1), self._prompts.words
            self._prompts.words = words_for(asked, few.prompt, few_words, more.prompt, more_words)
        await self._probe(None)

    async def _probe(self, most: int | None) -> Answer:
        """One request by itself. What would be refused each time is raised."""
        answer = await Stage(self._call, iter([self._prompts.body(most)]), self.pool).alone()
        if answer.status in _REFUSED or answer.status == 0 or answer.error().get("code") == "not_ready":
            raise self._told(answer)
        return answer

    def _told(self, answer: Answer) -> SluiceError:
        """Why a probe was refused."""
        said = answer.error()
        if answer.status == 0:
            place = urlsplit(self._sluice.url).netloc or self._sluice.url
            return errors.Unavailable(f"{place} does not answer: {answer.fault}")
        return wire.told_error({"code": said.get("code"), "detail": said.get("message")}, status=answer.status)

    async def _warm_up(self, load: Load) -> Tally:
        """Opens the connections, and lets the server load what it loads when it is first asked."""
        at_once = load.concurrency or _OPEN_WARMUP
        number = at_once if self._plan.warmup is None else self._plan.warmup
        stage = Stage(self._call, self._prompts.bodies(), self.pool)
        if number:
            await stage.closed(min(at_once, number), number, None)
        return stage.tally

    async def _ready_jobs(self) -> int | None:
        try:
            return sum(_is_ready(job) for job in await self._sluice.sessions.jobs(self._view.id))
        except SluiceError:
            return None

    async def _environment(self) -> Environment:
        view = self._view
        try:
            version = (await self._sluice.health()).version
        except SluiceError:
            version = ""
        replicas = view.replicas
        return Environment(
            session=view.id,
            session_name=view.name,
            project=view.project,
            cluster=view.cluster,
            recipe=view.recipe,
            recipe_version=view.recipe_version,
            image=view.image,
            image_sha256=view.image_sha256,
            model=view.model,
            nodes=view.job.nodes or "",
            parameters={name: value for name, value in view.parameters.items() if value is not None},
            resources=dict(view.resources),
            replicas=f"{replicas.min}..{replicas.max}" if replicas else "1",
            gateway=self._sluice.url,
            gateway_version=version,
            version=_version(),
        )


def words_for(tokens: int, few: int | None, few_words: int, more: int | None, more_words: int) -> int:
    """Words for a prompt of so many tokens, from two that were counted; a token a word where nobody counts."""
    if few is None or more is None or more <= few or more_words <= few_words:
        return tokens
    each = (more - few) / (more_words - few_words)
    return max(1, round(few_words + (tokens - few) / each))


def _is_ready(job: ReplicaView) -> bool:
    return job.phase == "ready" and not job.draining


def _version() -> str:
    try:
        return metadata.version("sluice")
    except metadata.PackageNotFoundError:
        return ""


def _many_files() -> None:
    """Each request of an open loop may need a connection: as many as the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
