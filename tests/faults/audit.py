"""Whether what clients were told is so: asked of Slurm's accounting and of marks that jobs left, not of the gateway."""

import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gateway.cluster import Cluster
from gateway.model.job import JOB_NAME_PREFIX
from tests.faults.clients import Told

SACCT = ("sacct", "-a", "-X", "-D", "-n", "-P", "-o", "JobIDRaw,JobName,State,Submit,End")
WAITING = {"PENDING", "RUNNING", "SUSPENDED", "REQUEUED", "RESIZING", "COMPLETING", "CONFIGURING"}
UNHAPPY = {"FAILED", "NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL", "PREEMPTED"}
SECOND = 1.0  # accounting knows no less
_NAME = re.compile(rf"{JOB_NAME_PREFIX}(?P<session>[0-9a-z]{{26}})-\d+")


@dataclass(frozen=True)
class Accounted:
    """The last life of a job, as Slurm's accounting tells it; `submitted` and `end` in epoch seconds."""

    job_id: int
    name: str
    state: str
    submitted: float
    end: float | None


@dataclass
class Findings:
    """What must be empty: one line for each session or job that is not as it must be."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    falsely_ended: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        for name in ("lost", "doubled", "falsely_ended", "orphans", "wrong"):
            yield from (f"{name.replace('_', ' ')}: {line}" for line in getattr(self, name))


def judge(
    told: Sequence[Told], jobs: Sequence[Accounted], marks: Mapping[str, Collection[int]], listed: Collection[str]
) -> Findings:
    """Compare. `marks`: session id → the jobs that started for it; `listed`: the ids that the gateway still shows."""
    found = Findings()
    named: dict[str, set[int]] = defaultdict(set)
    ours: dict[str, list[Accounted]] = defaultdict(list)
    known = {each.id for each in told}
    for job in jobs:
        named[job.name].add(job.job_id)
        session = session_of(job.name)
        ours[session].append(job)
        if session not in known:
            found.orphans.append(f"job {job.job_id} ({job.name}, {job.state}) is of no session")
    found.doubled += [f"{name} is the name of jobs {sorted(ids)}" for name, ids in named.items() if len(ids) > 1]
    for each in told:
        _one(each, ours[each.id], marks.get(each.id, ()), each.id in listed, found)
    found.lost += [f"session {session} is nobody's" for session in listed if session not in known]
    return found


def _one(told: Told, jobs: Sequence[Accounted], marks: Collection[int], listed: bool, found: Findings) -> None:
    who = f"session {told.id or told.key} ({told.plan.way}, {told.phase} {told.reason})"
    found.wrong += [f"{who}: {line}" for line in told.wrong]
    if told.id and not listed and not told.forgotten:
        found.lost.append(f"{who} is not to be found")
    if told.ended_at is None:
        found.lost.append(f"{who} did not end")
        return
    strangers = set(marks) - {job.job_id for job in jobs}
    if strangers:
        found.orphans.append(f"{who}: jobs {sorted(strangers)} ran, and accounting does not know them as its own")
    last = max(jobs, key=lambda job: job.job_id, default=None)
    if last is None:
        if told.phase != "stopped":
            found.lost.append(f"{who} never had a job")
        return
    if last.state in WAITING or last.end is None:
        found.falsely_ended.append(f"{who}: job {last.job_id} is {last.state}")
    elif last.end > told.ended_at + SECOND:
        found.falsely_ended.append(f"{who}: read ended {last.end - told.ended_at:.1f} s before job {last.job_id} ended")
    elif not _agrees(told, last, marks):
        found.falsely_ended.append(
            f"{who}, {told.message!r}: job {last.job_id} is {last.state}, started {sorted(marks)}"
        )


def _agrees(told: Told, last: Accounted, marks: Collection[int]) -> bool:
    """Whether a session may read so, if its last job ended like this."""
    match told.phase:
        case "succeeded":
            return last.state == "COMPLETED" and last.job_id in marks and told.plan.way != "fails"
        case "failed":
            return last.state in UNHAPPY and told.reason != "job_lost"
        case "stopped":
            return told.stop_asked and last.state in {"CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "PREEMPTED"}
    return False


def session_of(job_name: str) -> str:
    """The session of a job's name; the name itself where it is of none."""
    found = _NAME.fullmatch(job_name)
    return found["session"].upper() if found else job_name


def parse(text: str) -> list[Accounted]:
    """The last life of each job of a session in an answer of sacct."""
    lives: dict[int, Accounted] = {}
    for line in text.splitlines():
        job_id, name, state, submitted, end = line.split("|")
        if _NAME.fullmatch(name):
            word = state.split(" ")[0]  # "CANCELLED by 2001"
            lives[int(job_id)] = Accounted(int(job_id), name, word, _moment(submitted) or 0.0, _moment(end))
    return list(lives.values())


def _moment(text: str) -> float | None:
    return (
        None
        if text in {"Unknown", "None", ""}
        else datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()
    )


def accounted(cluster: Cluster, since: float) -> list[Accounted]:
    """Every job of Sluice's that was submitted since then, as accounting knows it now."""
    start = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    done = cluster.exec("ctl", ["env", "TZ=UTC", *SACCT, "-S", start])
    return [job for job in parse(done.stdout) if job.submitted >= since - SECOND]


def in_queue(cluster: Cluster, since: float) -> list[str]:
    """Jobs of Sluice's that were submitted since then, and that Slurm has not done with."""
    done = cluster.exec("ctl", ["env", "TZ=UTC", "squeue", "-h", "-o", "%V %j %i %T", "-t", "PD,R,CG,S,CF"])
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    ours = [(at, rest) for at, rest in lines if _NAME.match(rest)]
    return [rest for at, rest in ours if (_moment(at) or since) >= since - SECOND]


def marks(cluster: Cluster, sessions: Collection[str]) -> dict[str, set[int]]:
    """Which jobs started for each session, as they themselves wrote it into its folder."""
    root = cluster.home / "alice" / ".sluice" / "sessions"
    return {
        session: {int(mark.name.removeprefix("started-")) for mark in (root / session / "work").glob("started-*")}
        for session in sessions
    }


def until_quiet(cluster: Cluster, since: float, names: Collection[str], within: float) -> list[Accounted]:
    """Wait until no job of ours is left in the queue, and accounting has heard of every end; then all the jobs.

    `names` are those of the jobs that clients were told of: a slurmdbd that was away learns of them minutes later.
    """
    end = time.monotonic() + within
    while True:
        jobs = accounted(cluster, since)
        heard = {job.name for job in jobs if job.end is not None}
        live = [job for job in jobs if job.end is None]
        if (heard.issuperset(names) and not live and not in_queue(cluster, since)) or time.monotonic() > end:
            return jobs
        time.sleep(0.5)
