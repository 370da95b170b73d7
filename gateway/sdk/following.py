"""Decisions of waiting and of following a log, without I/O: what counts as reached, as changed, as late."""

from typing import Literal

from gateway.errors import SessionFailed, SluiceError, TimedOut
from gateway.model.api import SessionView

Until = Literal["ready", "ended"]

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 2.0
GIVE_UP = 300.0
PATIENCE = 45.0
"""Seconds without a sign of life (the gateway sends one every 15) after which a stream counts as lost."""

_UP = {"ready", "running"}
_LINE = 400
_MOST = 200_000


def reached(view: SessionView, until: Until) -> bool:
    """Whether it is as wished. SessionFailed if it ended and was to become ready, or failed."""
    if view.ended and view.phase == "failed":
        raise ended_otherwise(view)
    if until == "ended":
        return view.ended
    if view.ended and view.phase != "succeeded":
        raise ended_otherwise(view)
    return view.ended or (view.phase in _UP and not view.stop_requested)


def ended_otherwise(view: SessionView) -> SluiceError:
    """The session's own words."""
    why = view.message or view.reason or "no reason was given"
    logs = f"Its log: sluice logs {view.name}   Slurm's and the agent's: sluice logs --job {view.name}"
    return SessionFailed(
        f"session {view.name} {'failed' if view.phase == 'failed' else 'was stopped'}: {why}",
        hint=logs if view.job.job_id is not None else f"All about it: sluice show {view.name}",
        session=view.id,
        phase=view.phase,
        reason=view.reason,
    )


def late(view: SessionView, until: Until, seconds: float) -> SluiceError:
    """It goes on, but the time to wait is over."""
    why = f" ({view.message or view.reason})" if view.message or view.reason else ""
    wished = "has not ended" if until == "ended" else "is not ready"
    return TimedOut(
        f"session {view.name} {wished} after {seconds:.0f} s: it is {view.phase}{why}",
        hint=f"It goes on. Wait again: sluice wait {view.name}   Stop it: sluice stop {view.name}",
        session=view.id,
        phase=view.phase,
        reason=view.reason,
    )


def changed(before: SessionView | None, now: SessionView) -> bool:
    """Whether there is something new to show; the time of the last look is not."""
    return before is None or before.model_dump(exclude={"updated_at"}) != now.model_dump(exclude={"updated_at"})


def read_timeout(left: float | None) -> float:
    """How long to wait for the next sign of life, if `left` seconds are left."""
    return PATIENCE if left is None else max(0.05, min(left, PATIENCE))


def tail_offset(tail: int | None) -> int:
    """Where in a log to begin for its last lines: enough bytes from its end, in one piece."""
    return 0 if tail is None else -min(_MOST, max(_LINE, tail * _LINE))


def last_lines(text: str, count: int) -> str:
    """The last `count` lines."""
    return "".join(text.splitlines(keepends=True)[-count:]) if count > 0 else ""
