"""The life of endpoints under load: renewal, update, deaths of real model servers, a node that vanishes."""

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.deaths import WITHIN, Watch, cancel, kill_job, kill_service, watch
from benchmarks.environment import Environment
from benchmarks.report import Row, percentile
from benchmarks.steady import Steady, steady
from gateway.model.api import ReplicaView
from gateway.sdk import Session, Sluice

RECIPE = "llama-cpp"
PARAMETERS = {"threads": 1, "parallel": 4}
#: A renewal is due after about half of it.
LIMIT = "2m"
#: Jobs of a crowd, of which all but one die, one way each time.
CROWD = 11
WAYS = {"service killed": kill_service, "job killed": kill_job, "scancel": cancel}
CUTS = 3
CALM = 1.0
Kill = Callable[[Environment, int], float]


def measure(env: Environment) -> Iterator[Row]:
    """One part after the other, each with sessions of its own."""
    with Sluice(env.url, env.token) as sluice, watch(env) as seen:
        for part in (_renewal, _update, _deaths, _vanished):
            yield from part(env, sluice, seen)


# ------------------------------------------------------------------ one job takes over from another


def _renewal(env: Environment, sluice: Sluice, seen: Watch) -> Iterator[Row]:
    """A job whose time limit comes: its successor is in the queue with a time to begin, takes over, and it ends."""
    (session,) = _ready(sluice, seen, "life-renewed", 1, resources={"time": LIMIT})
    first = sluice.sessions.jobs(session.id)[0]
    begin = ""

    def renewed() -> bool:
        nonlocal begin
        jobs = _live(sluice, session)
        if not begin:
            begin = next((_begins(env, job.job_id) for job in jobs if job.attempt > first.attempt and job.job_id), "")
        attempts = {job.attempt for job in jobs}
        return first.attempt not in attempts and any(job.phase == "ready" for job in jobs)

    load = asyncio.run(_under(env, "life-renewed", lambda: _until(renewed, "renewal", 3 * WITHIN)))
    yield Row("renewal: failed requests", "requests", load.failed + load.cut, note=f"{load.note}; {begin}")
    _stop(seen, session)


def _update(env: Environment, sluice: Sluice, seen: Watch) -> Iterator[Row]:
    """`sluice update` of a session with two jobs, which are replaced by ones with another context length."""
    (session,) = _ready(sluice, seen, "life-updated", 1, jobs=2)
    before = {job.attempt for job in _live(sluice, session)}

    def update() -> None:
        sluice.sessions.update(session.id, parameters={"context": 256})
        _until(lambda: _is_whole(_live(sluice, session), before, 2), "update")

    load = asyncio.run(_under(env, "life-updated", update))
    yield Row("rolling update: failed requests", "requests", load.failed + load.cut, note=load.note)
    _stop(seen, session)


def _begins(env: Environment, job: int) -> str:
    """How long Slurm holds a job that was submitted with a time to begin, in words."""
    told = json.loads(env.cluster.exec("login", ["scontrol", "show", "job", str(job), "--json"]).stdout)
    eligible, submitted = (told["jobs"][0][name]["number"] for name in ("eligible_time", "submit_time"))
    return f"its successor was submitted {eligible - submitted} s before it was to begin"


def _is_whole(jobs: Sequence[ReplicaView], before: set[int], number: int) -> bool:
    return len(jobs) == number and all(job.phase == "ready" and job.attempt not in before for job in jobs)


# ------------------------------------------------------------------ deaths


def _deaths(env: Environment, sluice: Sluice, seen: Watch) -> Iterator[Row]:
    """A crowd of one model's servers dies, one after the other, in three ways."""
    unfit: list[float] = []
    gone: list[float] = []
    for way, kill in WAYS.items():
        crowd = _ready(sluice, seen, f"life-{way.replace(' ', '-')}", CROWD)
        jobs = [session.view.job.job_id or 0 for session in crowd[1:]]
        times: list[tuple[float, float]] = []
        work = partial(_kill, env, seen, kill, jobs, times)
        load = asyncio.run(_under(env, crowd[0].model or "", work))
        unfit += [one for one, _ in times]
        gone += [one for _, one in times]
        yield Row(f"{way}: failed requests", "requests", load.failed, note=load.note)
        middle, worst = statistics.median(one for one, _ in times), max(one for one, _ in times)
        yield Row(f"{way}: until no request is sent to it", "s", middle, note=f"longest {worst:.3f} s")
        _stop(seen, *crowd)
    note = f"{len(unfit)} deaths in {len(WAYS)} ways, under load"
    for what, seconds in (("no request is sent to it", unfit), ("endpoint withdrawn", gone)):
        for share in (0.5, 0.99):
            yield Row(f"job death to: {what}, p{share * 100:.0f}", "s", percentile(seconds, share), note=note)


def _kill(env: Environment, seen: Watch, kill: Kill, jobs: Sequence[int], times: list[tuple[float, float]]) -> None:
    """Each in turn."""
    for job in jobs:
        time.sleep(CALM)
        times.append(_death(env, seen, kill, job))


def _death(env: Environment, seen: Watch, kill: Kill, job: int) -> tuple[float, float]:
    """Seconds until it gets no requests, and until the client service has no such endpoint."""
    before = seen.last
    died = kill(env, job)
    unfit = seen.until(lambda now: now.fit < before.fit, f"job {job} gets no requests")
    gone = seen.until(lambda now: now.all < before.all, f"job {job} is no endpoint")
    return max(0.0, unfit.at - died), max(0.0, gone.at - died)


def _vanished(env: Environment, sluice: Sluice, seen: Watch) -> Iterator[Row]:
    """A session with a job on each of two nodes; the link of one is cut, without a word, again and again."""
    (session,) = _ready(sluice, seen, "life-far", 1, jobs=2, resources={"cpus": 9})
    times: list[float] = []

    def cut() -> None:
        for _ in range(CUTS):
            seen.until(lambda now: now.fit == now.all == 2, "both are there")
            time.sleep(CALM)
            env.cluster.cut_link("node2")
            began = time.monotonic()
            try:
                times.append(seen.until(lambda now: now.fit == 1, "one is gone").at - began)
                time.sleep(CALM)
            finally:
                env.cluster.restore_link("node2")
        seen.until(lambda now: now.fit == now.all == 2, "both are there again")

    load = asyncio.run(_under(env, "life-far", cut))
    note = f"the longest of {', '.join(f'{one:.1f}' for one in times)}"
    yield Row("vanished node: to its ejection", "s", max(times), note=note)
    yield Row("vanished node: failed requests", "requests", load.failed, note=load.note)
    _stop(seen, session)


# ------------------------------------------------------------------ what all parts do


def _ready(
    sluice: Sluice, seen: Watch, model: str, number: int, jobs: int = 1, resources: Mapping[str, Any] | None = None
) -> list[Session]:
    """So many sessions of a model, each with so many jobs, and all of these ready."""
    parameters, replicas = {**PARAMETERS, "alias": model}, {"min": jobs}
    asked = [
        sluice.sessions.create(RECIPE, parameters=parameters, replicas=replicas, resources=resources)
        for _ in range(number)
    ]
    found = [session.wait("ready", timeout=WITHIN) for session in asked]
    most = number * jobs
    seen.until(lambda now: now.fit == now.all == most, f"{most} endpoints of {model}")
    return found


def _stop(seen: Watch, *sessions: Session) -> None:
    for session in sessions:
        session.stop()
    seen.until(lambda now: now.all == 0, "all have ended")


async def _under(env: Environment, model: str, work: Callable[[], None]) -> Steady:
    """Do it under load; what came of the load."""
    async with steady(env, model) as load:
        await asyncio.sleep(CALM)
        await asyncio.to_thread(work)
        await asyncio.sleep(CALM)
    return load


def _live(sluice: Sluice, session: Session) -> list[ReplicaView]:
    return [job for job in sluice.sessions.jobs(session.id) if job.phase not in {"succeeded", "failed", "stopped"}]


def _until(reached: Callable[[], bool], what: str, within: float = WITHIN) -> None:
    end = time.monotonic() + within
    while not reached():
        assert time.monotonic() < end, f"not within {within:g} s: {what}"
        time.sleep(0.2)
