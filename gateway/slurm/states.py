"""The one table of Slurm's job states and flags: every word enters here, an unknown one becomes UNKNOWN.

REST and `--json` list a base state and flags (`["PENDING", "COMPLETING"]`); `squeue` and `sacct` print one word
(`COMPLETING`, `CG`, `CANCELLED by 2001`, `OUT_OF_MEMORY`, `CANCELLED+` when cut). What is decided here, and why:

- A job that goes back to the queue is PENDING, whatever its last run ended as: REQUEUED, REQUEUE_HOLD,
  SPECIAL_EXIT, REQUEUE_FED and RESV_DEL_HOLD all mean "it may run again under this id".
- COMPLETING keeps the base state: the outcome stands and the service is gone, only the nodes are not free yet.
  Whoever needs the nodes (or the last lines of a log) looks at the flag. Printed alone, the outcome is not told:
  the job held nodes and has not ended, so it reads RUNNING with the flag, until the outcome is told.
- REVOKED: another cluster of a federation runs this job under the same id, so nothing is known here.
- PREEMPTED is an end; a preempted job that is requeued carries PENDING or one of the words above.
"""

import re
from collections.abc import Iterable
from typing import Final

from gateway.model.job import JobState

_BASE: Final = {
    "PENDING": ("PD", JobState.PENDING),
    "RUNNING": ("R", JobState.RUNNING),
    "SUSPENDED": ("S", JobState.SUSPENDED),
    "COMPLETED": ("CD", JobState.COMPLETED),
    "CANCELLED": ("CA", JobState.CANCELLED),
    "FAILED": ("F", JobState.FAILED),
    "TIMEOUT": ("TO", JobState.TIMEOUT),
    "NODE_FAIL": ("NF", JobState.NODE_FAIL),
    "PREEMPTED": ("PR", JobState.PREEMPTED),
    "BOOT_FAIL": ("BF", JobState.BOOT_FAIL),
    "DEADLINE": ("DL", JobState.DEADLINE),
    "OUT_OF_MEMORY": ("OOM", JobState.OUT_OF_MEMORY),
}

# flag -> (compact form, the state when it is the only word, the state whatever the base says)
_FLAGS: Final[dict[str, tuple[str, JobState, JobState | None]]] = {
    "REQUEUED": ("RQ", JobState.PENDING, JobState.PENDING),
    "REQUEUE_HOLD": ("RH", JobState.PENDING, JobState.PENDING),
    "REQUEUE_FED": ("RF", JobState.PENDING, JobState.PENDING),
    "SPECIAL_EXIT": ("SE", JobState.PENDING, JobState.PENDING),
    "RESV_DEL_HOLD": ("RD", JobState.PENDING, JobState.PENDING),
    "REVOKED": ("RV", JobState.UNKNOWN, JobState.UNKNOWN),
    "COMPLETING": ("CG", JobState.RUNNING, None),
    "CONFIGURING": ("CF", JobState.RUNNING, None),
    "RESIZING": ("RS", JobState.RUNNING, None),
    "SIGNALING": ("SI", JobState.RUNNING, None),
    "STAGE_OUT": ("SO", JobState.RUNNING, None),
    "STOPPED": ("ST", JobState.RUNNING, None),
    "POWER_UP_NODE": ("PO", JobState.RUNNING, None),
    "EXPEDITING": ("EX", JobState.PENDING, None),
    "LAUNCH_FAILED": ("LF", JobState.UNKNOWN, None),
    "RECONFIG_FAIL": ("RC", JobState.UNKNOWN, None),
    "UPDATE_DB": ("UD", JobState.UNKNOWN, None),
}

FLAGS: Final = frozenset(_FLAGS)
BASES: Final = frozenset(_BASE)

_WORDS: Final = {compact: word for word, (compact, _) in _BASE.items()} | {
    compact: word for word, (compact, _, _) in _FLAGS.items()
}
_SPLIT: Final = re.compile(r"[\s,|+]+")


def parse(words: str | Iterable[str]) -> tuple[JobState, frozenset[str]]:
    """The state, and Slurm's flags by their long names; words that no table knows are kept among the flags."""
    known, strange = _normalise(words)
    flags = frozenset(word for word in known if word in _FLAGS)
    bases = [word for word in known if word in _BASE]
    kept = flags | strange
    for flag in sorted(flags):
        forced = _FLAGS[flag][2]
        if forced is not None:
            return forced, kept
    if strange or len(set(bases)) > 1:
        return JobState.UNKNOWN, kept
    if bases:
        return _BASE[bases[0]][1], kept
    alone = {_FLAGS[flag][1] for flag in flags}
    return (alone.pop() if len(alone) == 1 else JobState.UNKNOWN), kept


def _normalise(words: str | Iterable[str]) -> tuple[list[str], frozenset[str]]:
    if isinstance(words, str):
        # sacct says who cancelled: `CANCELLED by 2001`
        parts = _SPLIT.split(words.strip().upper().partition(" BY ")[0])
    else:
        parts = [word.strip().upper() for word in words]
    known: list[str] = []
    strange: set[str] = set()
    for part in parts:
        word = _WORDS.get(part, part)
        if word in _BASE or word in _FLAGS:
            known.append(word)
        elif word:
            strange.add(word)
    return known, frozenset(strange)
