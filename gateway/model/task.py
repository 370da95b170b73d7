"""Tasks: work that the client service gives to ready sessions. A batch of requests is one. Pure: no I/O, no clock.

    validating ──▶ in_progress ──▶ finalizing ──▶ completed | failed | expired
        │              └──▶ cancelling ──▶ cancelled
        └──▶ failed

The words are OpenAI's. While a task waits (its session starts, or its replicas are busy) it stays `in_progress`, and
`message` says for what.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from gateway.model.principal import Origin

#: What lines may ask for.
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
#: How many faults of a file are told.
MOST_FAULTS = 100
FilePart = Literal["output", "error"]
Purpose = Literal["batch", "batch_output", "task_input"]


class TaskPhase(StrEnum):
    """Where a task is."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        return self in {TaskPhase.COMPLETED, TaskPhase.FAILED, TaskPhase.CANCELLED, TaskPhase.EXPIRED}

    @property
    def asks(self) -> bool:
        """Whether sessions are asked in it."""
        return self is TaskPhase.IN_PROGRESS


class LineFault(BaseModel):
    """What is wrong with a line of the input. `line` counts from 1; None: with the file, or the task."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Task(BaseModel):
    """A task as it is kept.

    `session` is the one that answers every line; None: the model that a line names says which. `completed` and `failed`
    count lines, and so does `total`, once it is known. `outcome` is what it ends as once its results are in order.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    kind: Literal["batch"] = "batch"
    owner: str
    user_id: str
    token: str | None = None
    origin: Origin = "api"
    project: str | None = None
    session: str | None = None
    endpoint: str = ""
    phase: TaskPhase = TaskPhase.VALIDATING
    message: str = ""
    outcome: TaskPhase | None = None
    total: int | None = None
    completed: int = 0
    failed: int = 0
    concurrency: int | None = None
    input_file: str
    output_file: str | None = None
    error_file: str | None = None
    about: Mapping[str, Any] = {}
    faults: tuple[LineFault, ...] = ()
    window: str = "24h"
    version: int = 1
    created_at: datetime
    expires_at: datetime
    started_at: datetime | None = None
    cancelled_at: datetime | None = None
    finalized_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def done(self) -> int:
        """Lines that have their result."""
        return self.completed + self.failed

    @property
    def whole(self) -> bool:
        """Whether every line has its result."""
        return self.total is not None and self.done >= self.total


class Seen(NamedTuple):
    """What whoever works on a task has found.

    `lines`: the input is good and has so many. `faults`: it is not. `refused`: it cannot go on, and why. `assembled`:
    the results are in order, in these files (output, error).
    """

    lines: int | None = None
    faults: Sequence[LineFault] = ()
    refused: str = ""
    assembled: tuple[str | None, str | None] | None = None


NOTHING = Seen()


def step(task: Task, seen: Seen, now: datetime) -> Task:
    """The task after what was seen; the same one if nothing follows from it."""
    match task.phase:
        case TaskPhase.VALIDATING if seen.faults:
            said = {"phase": TaskPhase.FAILED, "faults": tuple(seen.faults[:MOST_FAULTS]), "ended_at": now}
            return task.model_copy(update={**said, "message": _about(seen.faults)})
        case TaskPhase.VALIDATING | TaskPhase.IN_PROGRESS if seen.refused and not task.whole:
            return _finalizing(task, TaskPhase.FAILED, seen.refused, now)
        case TaskPhase.VALIDATING | TaskPhase.IN_PROGRESS if now >= task.expires_at and not task.whole:
            return _finalizing(task, TaskPhase.EXPIRED, f"it was not done within {task.window}", now)
        case TaskPhase.VALIDATING if seen.lines is not None:
            started = {"phase": TaskPhase.IN_PROGRESS, "total": seen.lines, "started_at": now}
            return task.model_copy(update=started)
        case TaskPhase.IN_PROGRESS if task.whole:
            return _finalizing(task, TaskPhase.COMPLETED, "", now)
        case TaskPhase.FINALIZING | TaskPhase.CANCELLING if seen.assembled is not None:
            output, error = seen.assembled
            outcome = TaskPhase.CANCELLED if task.phase is TaskPhase.CANCELLING else task.outcome
            ended = {"phase": outcome or TaskPhase.COMPLETED, "ended_at": now}
            return task.model_copy(update={**ended, "output_file": output, "error_file": error})
    return task


def cancel(task: Task, now: datetime) -> Task:
    """The task once its owner wants its end: nothing new is asked, what is done is kept."""
    if task.phase in {TaskPhase.VALIDATING, TaskPhase.IN_PROGRESS}:
        return task.model_copy(update={"phase": TaskPhase.CANCELLING, "cancelled_at": now, "message": ""})
    return task


def unasked(task: Task) -> tuple[str, str]:
    """The error of a line that has no answer when its task ends early: code, as OpenAI has it, and words."""
    if task.phase is TaskPhase.CANCELLING:
        return "batch_cancelled", "the batch was cancelled before this line was answered"
    if task.outcome is TaskPhase.EXPIRED:
        return "batch_expired", f"this line was not answered within {task.window}"
    return "batch_failed", f"the batch ended before this line was answered: {task.message}"


def _finalizing(task: Task, outcome: TaskPhase, message: str, now: datetime) -> Task:
    why = [*task.faults, *([LineFault(code=outcome.value, message=message)] if message else [])]
    said = {"outcome": outcome, "message": message, "faults": tuple(why), "finalized_at": now}
    return task.model_copy(update={"phase": TaskPhase.FINALIZING, **said})


def _about(faults: Sequence[LineFault]) -> str:
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{f'line {first.line}: ' if first.line is not None else ''}{first.message}{more}"


class KeptFile(BaseModel):
    """A file: what lines are read from, or what results can be read as. `task` and `part`: results of that task."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    owner: str
    project: str | None = None
    session: str | None = None
    purpose: Purpose
    name: str
    bytes: int = 0
    sha256: str = ""
    complete: bool = False
    task: str | None = None
    part: FilePart | None = None
    created_at: datetime
    touched_at: datetime


class TaskView(BaseModel):
    """A task as the API shows it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    kind: Literal["batch"] = Field("batch", description="What is to be done: a batch of requests.")
    owner: str = Field(description="Who asked for it; the sessions are asked as them.")
    project: str | None = Field(None, description="The session's project.")
    session: str | None = Field(None, description="Id of the session that answers; unset: each line's model says.")
    endpoint: str = Field("", description="What every line asks for; empty: each line says.")
    phase: TaskPhase
    message: str = Field("", description="What it waits for, or why it ended as it did.")
    total: int | None = Field(None, description="Lines; unset until they have been looked at.")
    completed: int = Field(0, description="Lines that were answered.")
    failed: int = Field(0, description="Lines that have an error for their result.")
    concurrency: int | None = Field(None, description="Lines asked at once; unset: as many as the replicas take.")
    input_file: str
    output_file: str | None = Field(None, description="Id of the file with the answers, once it has ended.")
    error_file: str | None = Field(None, description="Id of the file with the lines that failed, once it has ended.")
    about: Mapping[str, Any] = Field(default_factory=dict, description="The owner's own words about it (metadata).")
    faults: tuple[LineFault, ...] = Field((), description="What is wrong with the input, or with the task.")
    created_at: datetime
    expires_at: datetime = Field(description="When it ends, whatever is done by then.")
    started_at: datetime | None = None
    cancelled_at: datetime | None = None
    finalized_at: datetime | None = None
    ended_at: datetime | None = None


def view_of(task: Task) -> TaskView:
    return TaskView.model_validate(task, from_attributes=True)
