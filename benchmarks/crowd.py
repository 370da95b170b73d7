"""Ten thousand pending jobs of other people, and what Slurm's daemons spend meanwhile."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import load
from gateway.cluster import Cluster
from gateway.slurm.tokens import Tokens

OTHER, OURS, NAIVE = "bob", "alice", "oper"
API = "v0.0.45"
FAR, NEAR = "crowd", "waiting"  # partitions that start nothing: of the others, and of ours
CONNECTIONS = 8
_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def crowd(cluster: Cluster, jobs: int) -> Iterator[None]:
    """So many jobs of another user wait in a partition that is down; another such partition is there for ours."""
    for name in (FAR, NEAR):
        words = ["scontrol", "create", f"PartitionName={name}", "Nodes=ALL", "State=DOWN", "MaxTime=INFINITE"]
        cluster.exec("ctl", words)
    try:
        submit(cluster, OTHER, jobs, account="teaching", partition=FAR)
        yield
    finally:
        for user in (OTHER, OURS, NAIVE):
            cluster.exec("ctl", ["scancel", f"--user={user}"])
        _until(lambda: not queued(cluster), 300)
        for name in (FAR, NEAR):
            cluster.exec("ctl", ["scontrol", "delete", f"PartitionName={name}"])


def submit(cluster: Cluster, user: str, jobs: int, **options: str) -> None:
    """Post so many `true` jobs to slurmrestd, over some connections."""
    job = {
        "name": "other",
        "tasks": 1,
        "nodes": "1",
        "memory_per_node": {"set": True, "number": 100},
        "time_limit": {"set": True, "number": 5},
        "standard_output": "/dev/null",
        "current_working_directory": "/tmp",  # noqa: S108 - of a node
        "environment": ["PATH=/usr/bin:/bin"],
        **options,
    }
    body = json.dumps({"script": "#!/bin/sh\nsleep 1\n", "job": job}).encode()
    url = f"{cluster.rest_url}/slurm/{API}/job/submit"
    result = asyncio.run(load(url, body, headers=headers(cluster, user), connections=CONNECTIONS, requests=jobs))
    assert result.errors == 0, f"{result.errors} jobs of {user} were not taken"


def headers(cluster: Cluster, user: str) -> dict[str, str]:
    token = Tokens(cluster.jwt_key, time.time).token(user)
    return {"X-SLURM-USER-NAME": user, "X-SLURM-USER-TOKEN": token}


def queued(cluster: Cluster, *options: str) -> list[int]:
    """Numbers of the jobs that the queue has."""
    return [int(number) for number in cluster.exec("ctl", ["squeue", "-h", "-o", "%A", *options]).stdout.split()]


@dataclass(frozen=True)
class Spent:
    """What was spent so far: CPU seconds by daemon, RPCs to slurmctld by user, megabytes of slurmrestd's memory."""

    at: float
    cpu: dict[str, float]
    rpcs: dict[str, int]
    kinds: dict[str, int]
    memory: float

    @classmethod
    def now(cls, cluster: Cluster, gateway: int) -> "Spent":
        told = json.loads(cluster.exec("ctl", ["sdiag", "--json"]).stdout)["statistics"]
        cpu = {name: cpu_seconds(cluster.exec("ctl", ["sh", "-c", _STAT, "sh", name]).stdout) for name in DAEMONS}
        cpu["gateway"] = cpu_of(gateway)
        status = cluster.exec("ctl", ["sh", "-c", _STATUS]).stdout
        return cls(
            at=time.monotonic(),
            cpu=cpu,
            rpcs={row["user"]: row["count"] for row in told["rpcs_by_user"]},
            kinds={row["message_type"]: row["count"] for row in told["rpcs_by_message_type"]},
            memory=sum(int(line.split()[1]) for line in status.splitlines()) / 1000,
        )

    def cpu_a_minute(self, before: "Spent", name: str) -> float:
        return (self.cpu[name] - before.cpu[name]) * self._minute(before)

    def rpcs_a_minute(self, before: "Spent", user: str) -> float:
        return (self.rpcs.get(user, 0) - before.rpcs.get(user, 0)) * self._minute(before)

    def kinds_since(self, before: "Spent") -> dict[str, int]:
        grown = {kind: count - before.kinds.get(kind, 0) for kind, count in self.kinds.items()}
        return {kind: count for kind, count in sorted(grown.items(), key=lambda item: -item[1]) if count}

    def _minute(self, before: "Spent") -> float:
        return 60 / (self.at - before.at)


DAEMONS = ("slurmctld", "slurmrestd")
_STAT = 'for pid in $(pidof "$1"); do cat "/proc/$pid/stat"; done'
_STATUS = 'for pid in $(pidof slurmrestd); do grep VmRSS: "/proc/$pid/status"; done'


def cpu_of(pid: int) -> float:
    """CPU seconds of a process here, so far."""
    return cpu_seconds(Path(f"/proc/{pid}/stat").read_text(encoding="ascii"))


def cpu_seconds(stats: str) -> float:
    """CPU seconds of processes, from their /proc/PID/stat."""
    fields = [line.rpartition(")")[2].split() for line in stats.splitlines()]
    return sum(int(field[11]) + int(field[12]) for field in fields) / _TICKS


def _until(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.25)
