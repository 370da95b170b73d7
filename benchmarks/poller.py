"""The poller among 10,000 pending jobs of others and with 1,000 live sessions, beside one that asks for the whole list.

The naive poller is the obvious one: `GET /jobs/`, look for one's own, rest as long as ours does, again. On a site
without slurmrestd it is `squeue --json`.
"""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.crowd import API, NAIVE, NEAR, OURS, Spent, crowd, headers, queued, submit
from benchmarks.environment import Environment
from benchmarks.load import load
from benchmarks.report import Row, percentile
from gateway.cluster import Cluster
from gateway.core.reconcile import BUSY_FOR
from gateway.model.api import SessionRequest
from gateway.sdk import Sluice

OTHERS, SESSIONS, RUNNING = 10_000, (1, 100, 1_000), 20
WINDOW = 20.0
MOVED, NAIVE_MOVED, AT_ONCE = 40, 12, 3
REST, SETTLED = 1.0, 3.0
OBSERVED_EVERY = 0.02


def measure(env: Environment) -> Iterator[Row]:
    """The naive poller first, on a fresh slurmrestd; then ours, with ever more sessions; then from change to event."""
    with crowd(env.cluster, OTHERS):
        naive, listed = _naive(env), _squeue(env)
        env.cluster.service("ctl", "restart", "slurmrestd")
        until(lambda: _answers(env), 30)
        windows: dict[int, Window] = {}
        for number in SESSIONS:
            grow(env, number)
            windows[number] = window(env)
        most = windows[SESSIONS[-1]]
        events = _events(env)
        memory = Spent.now(env.cluster, env.pid).memory
    among = f"{OTHERS} jobs of others, {SESSIONS[-1]} sessions; raw: GET /jobs/ every second"
    yield Row("poll", "s", most.seconds, naive.seconds, note=among)
    yield Row("poll", "MB", most.bytes / 1e6, naive.bytes / 1e6)
    again = "raw: squeue --json every second"
    yield Row("poll beside squeue", "s", most.seconds, listed.seconds, note=again)
    yield Row("poll beside squeue", "MB", most.bytes / 1e6, listed.bytes / 1e6, note=again)
    yield Row("CPU of slurmctld beside squeue", "s/min", most.cpu["slurmctld"], listed.cpu["slurmctld"], note=again)
    for number, seen in windows.items():
        kinds = ", ".join(f"{kind.removeprefix('REQUEST_')} {count:.0f}" for kind, count in seen.kinds.items())
        raw = naive.rpcs if number == SESSIONS[-1] else None
        yield Row(f"slurmctld RPCs, {number} sessions", "1/min", seen.users.get(OURS, 0.0), raw, note=kinds)
    for name, cpu in most.cpu.items():
        yield Row(f"CPU of {name}", "s/min", cpu, naive.cpu.get(name) or None)
    yield Row("memory of slurmrestd before", "MB", windows[SESSIONS[0]].memory, naive.memory_before)
    yield Row("memory of slurmrestd after", "MB", memory, naive.memory)
    for share, word in ((0.5, "p50"), (0.99, "p99")):
        yield Row(
            f"change in Slurm to event, {word}",
            "s",
            percentile(events, share),
            percentile(naive.delays, share),
            note=f"{len(events)} changes; raw: {len(naive.delays)}, to the list's answer" if share < 1 else "",
        )


# ------------------------------------------------------------------ ours


@dataclass(frozen=True)
class Window:
    """What was spent in a stretch of time, a minute; and what a poll took and weighed in it. RPCs by user and kind."""

    seconds: float
    bytes: float
    users: dict[str, float]
    kinds: dict[str, float]
    cpu: dict[str, float]
    memory: float


def grow(env: Environment, sessions: int) -> None:
    """Until there are so many live sessions, every one with a job in the queue, and nothing has been asked for a while.

    Twenty of a thousand run, the others wait.
    """
    have = len(queued(env.cluster, f"--user={OURS}"))
    running = min(RUNNING, sessions - 1) if have <= 1 else 0
    for number, partition, command in ((running, "cpu", "sleep 3600"), (sessions - have - running, NEAR, "sleep 2")):
        body, url = session(partition, command), f"{env.url}/api/v1/sessions"
        result = asyncio.run(load(url, body, headers=env.headers, connections=8, requests=number))
        assert result.errors == 0, f"{result.errors} sessions were not accepted"
    until(lambda: len(queued(env.cluster, f"--user={OURS}")) == sessions, 120)
    time.sleep(BUSY_FOR + SETTLED)


def session(partition: str, command: str) -> bytes:
    """What is sent to start a session there."""
    request = SessionRequest(
        recipe="shell-command",
        parameters={"command": command},
        resources={"memory": "100M", "partition": partition, "time": "2h"},
    )
    return request.model_dump_json().encode()


def window(env: Environment) -> Window:
    """Twenty seconds in which nobody asks Sluice for anything."""
    before, polls_before = Spent.now(env.cluster, env.pid), _polls(env)
    time.sleep(WINDOW)
    after, polls = Spent.now(env.cluster, env.pid), _polls(env)
    looks = max(1.0, polls["count"] - polls_before["count"])
    minute = 60 / (after.at - before.at)
    return Window(
        seconds=(polls["seconds"] - polls_before["seconds"]) / looks,
        bytes=(polls["bytes"] - polls_before["bytes"]) / looks,
        users={user: after.rpcs_a_minute(before, user) for user in after.rpcs},
        kinds={kind: count * minute for kind, count in after.kinds_since(before).items() if count * minute > 1},
        cpu={name: after.cpu_a_minute(before, name) for name in after.cpu},
        memory=after.memory,
    )


def _polls(env: Environment) -> dict[str, float]:
    """Count, seconds and bytes of the polls so far, as the server tells Prometheus."""
    text = httpx.get(f"{env.url}/api/v1/metrics", headers=env.headers).text
    samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    return {
        "count": samples["sluice_poll_seconds_count"],
        "seconds": samples["sluice_poll_seconds_sum"],
        "bytes": samples["sluice_poll_bytes_sum"],
    }


def _events(env: Environment) -> list[float]:
    """Seconds from changes of jobs in Slurm to the events that tell them, at a client that follows all sessions.

    Waiting jobs are let into a partition that starts them, at moments that no session's request has to do with.
    """
    with Sluice(env.url, env.token) as sluice:
        waiting = itertools.islice(sluice.sessions.list(phase="queued"), MOVED)
        jobs = {session.id: session.view.job.job_id or 0 for session in waiting}
    heard: dict[tuple[int, str], float] = {}
    words = {"running": "RUNNING", "succeeded": "COMPLETED"}
    with _following(env, jobs, words, heard), _observer(env.cluster, OURS, list(jobs.values())) as seen:
        _move(env.cluster, list(jobs.values()))
        until(lambda: all((job, "COMPLETED") in heard for job in jobs.values()), 120)
    return [heard[change] - at for change, at in seen.items() if change in heard]


@contextmanager
def _following(
    env: Environment, jobs: dict[str, int], words: dict[str, str], heard: dict[tuple[int, str], float]
) -> Iterator[None]:
    """Follow the event stream, and note when each change of phase came."""
    opened, ended = threading.Event(), threading.Event()

    def follow() -> None:
        stream = f"{env.url}/api/v1/events"
        with (
            httpx.Client(timeout=httpx.Timeout(10, read=300)) as client,
            client.stream("GET", stream, headers=env.headers) as answer,
        ):
            opened.set()
            for line in answer.iter_lines():
                if ended.is_set():
                    return
                if line.startswith("data:") and '"session.phase"' in line:
                    at, event = time.monotonic(), json.loads(line[5:])
                    if event["session"] in jobs and event["data"]["phase"] in words:
                        heard.setdefault((jobs[event["session"]], words[event["data"]["phase"]]), at)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert opened.wait(10), "the event stream did not open"
    try:
        yield
    finally:
        ended.set()


# ------------------------------------------------------------------ Slurm


@contextmanager
def _observer(cluster: Cluster, user: str, jobs: Sequence[int]) -> Iterator[dict[tuple[int, str], float]]:
    """When each job was first seen RUNNING, and COMPLETED, by one who asks for their states 50 times a second."""
    seen: dict[tuple[int, str], float] = {}
    ended = threading.Event()
    query = "&".join(f"job_id={job}" for job in jobs)
    url = f"{cluster.rest_url}/slurm/{API}/jobs/state/?{query}"

    def observe() -> None:
        with httpx.Client(headers=headers(cluster, user), timeout=30) as client:
            while not ended.wait(OBSERVED_EVERY):
                rows = client.get(url).json()["jobs"]
                at = time.monotonic()
                for row in rows:
                    seen.setdefault((int(row["job_id"]), row["state"][0]), at)

    thread = threading.Thread(target=observe)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        for change in [change for change in seen if change[1] not in {"RUNNING", "COMPLETED"}]:
            del seen[change]


def _move(cluster: Cluster, jobs: Sequence[int]) -> None:
    """Let waiting jobs start, a few at once: what they do on these two cores must not be what is measured."""
    for job in jobs:
        cluster.exec("ctl", ["scontrol", "update", f"JobId={job}", "Partition=cpu"])
        until(lambda: len(queued(cluster, "--partition=cpu", "--states=R,PD,CG")) < RUNNING + AT_ONCE, 120)


# ------------------------------------------------------------------ the naive poller


@dataclass
class Naive:
    """What the naive poller spent, a minute, and how late it learned of changes."""

    seconds: float = 0.0
    bytes: float = 0.0
    rpcs: float = 0.0
    memory_before: float = 0.0
    memory: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    delays: list[float] = field(default_factory=list)


def _naive(env: Environment) -> Naive:
    submit(env.cluster, NAIVE, NAIVE_MOVED, account="research", partition=NEAR)
    jobs = queued(env.cluster, f"--user={NAIVE}")
    heard: dict[tuple[int, str], float] = {}
    polls: list[tuple[float, int]] = []
    ended = threading.Event()

    def poll() -> None:
        with httpx.Client(headers=headers(env.cluster, NAIVE), timeout=120) as client:
            while not ended.wait(REST):
                began = time.monotonic()
                answer = client.get(f"{env.cluster.rest_url}/slurm/{API}/jobs/")
                rows = answer.json()["jobs"]
                at = time.monotonic()
                polls.append((at - began, len(answer.content)))
                for row in rows:
                    heard.setdefault((row["job_id"], row["job_state"][0]), at)

    thread = threading.Thread(target=poll)
    before = Spent.now(env.cluster, env.pid)
    thread.start()
    try:
        time.sleep(WINDOW)
        after = Spent.now(env.cluster, env.pid)
        with _observer(env.cluster, OURS, jobs) as seen:
            _move(env.cluster, jobs)
            until(lambda: all((job, "COMPLETED") in heard for job in jobs), 120)
    finally:
        ended.set()
        thread.join()
    return Naive(
        seconds=sum(seconds for seconds, _ in polls) / len(polls),
        bytes=sum(size for _, size in polls) / len(polls),
        rpcs=after.rpcs_a_minute(before, NAIVE),
        memory_before=before.memory,
        memory=Spent.now(env.cluster, env.pid).memory,
        cpu={name: after.cpu_a_minute(before, name) for name in ("slurmctld", "slurmrestd")},
        delays=[heard[change] - at for change, at in seen.items() if change in heard],
    )


def _squeue(env: Environment) -> Naive:
    """The whole queue by Slurm's own command, on the controller's machine: what it takes, and what it says."""
    polls: list[tuple[float, int]] = []
    before = Spent.now(env.cluster, env.pid)
    while time.monotonic() < before.at + WINDOW:
        began = time.monotonic()
        said = env.cluster.exec("ctl", ["squeue", "--json"]).stdout
        polls.append((time.monotonic() - began, len(said)))
        time.sleep(REST)
    after = Spent.now(env.cluster, env.pid)
    return Naive(
        seconds=sum(seconds for seconds, _ in polls) / len(polls),
        bytes=sum(size for _, size in polls) / len(polls),
        cpu={"slurmctld": after.cpu_a_minute(before, "slurmctld")},
    )


def _answers(env: Environment) -> bool:
    with suppress(httpx.HTTPError):
        url = f"{env.cluster.rest_url}/slurm/{API}/ping/"
        return httpx.get(url, headers=headers(env.cluster, NAIVE), timeout=5).is_success
    return False


def until(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.1)
