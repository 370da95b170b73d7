"""Slurm jobs as Sluice sees them: what we send, what we are told, what we keep."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict
from ulid import ULID

JOB_NAME_PREFIX = "sluice-"
#: A flag of ours: the queue has not got the job, and accounting still says that it lives.
LEFT_QUEUE = "LEFT_QUEUE"


class JobState(StrEnum):
    """Slurm's base states, and UNKNOWN for a word that no table of ours knows. Names are Slurm's own."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    UNKNOWN = "UNKNOWN"

    @property
    def ended(self) -> bool:
        """The job will not run again under this id. UNKNOWN is not an end."""
        return self not in _LIVE


_LIVE = {JobState.PENDING, JobState.RUNNING, JobState.SUSPENDED, JobState.UNKNOWN}


class JobRole(StrEnum):
    PRIMARY = "primary"
    SUCCESSOR = "successor"
    REPLICA = "replica"


class JobOptions(BaseModel):
    """What Slurm is asked for: the `#SBATCH` lines of a script and the fields of a REST submission, one value.

    time_limit in minutes, memory in MiB per node; gres as Slurm writes it (`gpu:a100:2`). `comment` and `extra` are
    fields of a job that Slurm only keeps; everybody may read them. `begin_at`: it is not started before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time_limit: int | None = None
    begin_at: datetime | None = None
    nodes: int = 1
    tasks: int = 1
    tasks_per_node: int | None = None
    cpus_per_task: int = 1
    memory: int | None = None
    gres: str | None = None
    constraint: str | None = None
    exclusive: bool = False
    requeue: bool = False
    comment: str = ""
    extra: str = ""
    output: str = "/dev/null"
    working_directory: str = "/"

    def arguments(self) -> tuple[tuple[str, str | None], ...]:
        """`sbatch`'s long options by name, for `#SBATCH` lines and a command line; None: it takes no value."""
        valued = {
            "job-name": self.name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.time_limit,
            "begin": None if self.begin_at is None else f"uts{int(self.begin_at.timestamp())}",
            "nodes": self.nodes,
            "ntasks": self.tasks,
            "ntasks-per-node": self.tasks_per_node,
            "cpus-per-task": self.cpus_per_task,
            "mem": None if self.memory is None else f"{self.memory}M",
            "gres": self.gres,
            "constraint": self.constraint,
            "comment": self.comment or None,
            "extra": self.extra or None,
            "chdir": self.working_directory,
            "output": self.output,
        }
        told: list[tuple[str, str | None]] = [(n, str(value)) for n, value in valued.items() if value is not None]
        if self.exclusive:
            told.append(("exclusive", None))
        return (*told, ("requeue" if self.requeue else "no-requeue", None))


class JobScript(BaseModel):
    """One job, ready to be sent: the same value is shown by a dry run and given to Slurm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    options: JobOptions
    text: str


class SeenJob(BaseModel):
    """What Slurm said of a job at one moment. Times are UTC; `restarts` counts requeues.

    `position` is the place among the pending jobs of its partition, 1 is next; None where it is not known. `end_time`
    of a job that runs is when Slurm means to end it: by its time limit, or sooner if it is to be preempted.
    """

    model_config = ConfigDict(frozen=True)

    job_id: int
    name: str = ""
    user: str = ""
    state: JobState
    flags: frozenset[str] = frozenset()
    reason: str = ""
    nodes: str = ""
    exit_code: int | None = None
    signal: int | None = None
    comment: str = ""
    restarts: int = 0
    position: int | None = None
    submit_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    time_limit: int | None = None


class Job(BaseModel):
    """One Slurm job of a session, as kept in the database.

    `intent_at` is written before anything is sent; `job_id` after Slurm answered. An intent without an id
    means: it may exist, look it up by `name`, never send it again unseen. `tries` counts submits that Slurm certainly
    did not take, `misses` answers that it does not know the job; `time_limit` in minutes. `begin_at`: Slurm was asked
    not to start it before; `ends_at`: when Slurm means to end it, as far as it says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    session_id: str
    attempt: int
    role: JobRole = JobRole.PRIMARY
    name: str
    intent_at: datetime | None = None
    missed_at: datetime | None = None
    misses: int = 0
    not_before: datetime | None = None
    tries: int = 0
    job_id: int | None = None
    state: JobState | None = None
    reason: str = ""
    nodes: str = ""
    exit_code: int | None = None
    signal: int | None = None
    comment: str = ""
    restarts: int = 0
    position: int | None = None
    time_limit: int | None = None
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancelled_at: datetime | None = None
    begin_at: datetime | None = None
    ends_at: datetime | None = None


def job_name(session_id: str, attempt: int) -> str:
    """The Slurm job name of a session's attempt: how a job is found again after any doubt."""
    return f"{JOB_NAME_PREFIX}{session_id.lower()}-{attempt}"


def is_ours(name: str) -> bool:
    """Whether a job of this name is one of a Sluice, of this one or another."""
    return name.startswith(JOB_NAME_PREFIX)


def created_at(name: str) -> datetime | None:
    """When the session of a job of this name was created: its id says so. None if the name has no such id."""
    session_id = name.removeprefix(JOB_NAME_PREFIX).partition("-")[0]
    try:
        return ULID.from_str(session_id.upper()).datetime
    except ValueError:
        return None
