"""Slurm's error numbers and words → our error classes, in one table for every back end.

After a submit one question matters: can the job exist? Only errors that Slurm raises before it takes a job, or
that say it never got the message, may say "no"; whatever leaves a doubt is SubmitUnknown and is looked up.
"""

import errno
import os
import re
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import (
    Forbidden,
    SchedulerUnavailable,
    SluiceError,
    SubmitDeferred,
    SubmitRefused,
    SubmitUnknown,
)

UNKNOWN_JOB: Final = 2017
UNKNOWN_USER: Final = 2166
ACCESS_DENIED: Final = 2002
# Job/step already completing or completed; has finished; is not pending nor running
ALREADY_OVER: Final = frozenset({2021, 2084, 2085, 2086, UNKNOWN_JOB})

# slurmrestd did not understand the question: an id that is no id, for one.
REJECTED: Final = frozenset({9000, 9001, UNKNOWN_JOB})

# The controller did not take the message: connect failures, standby, rate limit, wrong protocol version, full disk.
_NOT_TAKEN: Final = frozenset({1001, 1005, 1021, 1800, 1804, 1805, 2019, 2027, 2131, 7000})
_AUTH: Final = frozenset({1007, 9008, *range(6000, 6012)})
# Sending or waiting for the answer failed: it may have been taken.
_IN_DOUBT: Final = frozenset(
    {1000, 1002, 1003, 1004, 1019, 1020, 1022, 1023, 1024, 1025, 1801, 1802, 1803, 5003, 5004, 5005}
)
# Limits and closed doors: the same job may be taken later.
# MaxJobCount, licences, accounting/QOS policy, reservation busy or not usable now, partition not available,
# QOS threshold, partition down, submissions disabled.
_LATER: Final = frozenset({2007, 2040, 2050, 2055, 2056, 2070, 2074, 2101, 2105})
_SLURM_ERRORS: Final = range(1000, 20000)

# What the commands print; for the numbers that decide something.
_WORDS: Final[tuple[tuple[str, int], ...]] = (
    ("Unable to contact slurm controller (connect failure)", 1800),
    ("Unable to contact slurm controller (send failure)", 1801),
    ("Unable to contact slurm controller (receive failure)", 1802),
    ("Unable to contact slurm controller (shutdown failure)", 1803),
    ("Socket timed out on send/recv operation", 5004),
    ("Zero Bytes were transmitted or received", 5005),
    ("Message receive failure", 1003),
    ("Message send failure", 1002),
    ("Connection timed out establishing", 1021),
    ("Connection timed out", 1023),
    ("Communication connection failure", 1001),
    ("Connection refused", 1001),
    ("No route to host", 1001),
    ("Protocol authentication error", 1007),
    ("Incompatible versions of client and server code", 1005),
    ("Rate limit exceeded", 1804),
    ("Slurm backup controller in standby mode", 2027),
    ("I/O error writing script/environment to file", 2019),
    ("Unable to contact slurm database", 7000),
    ("slurm_persist_conn_open", 7000),
    ("Unable to connect to database", 7000),
    ("Problem talking to the database", 7000),
    ("MaxJobCount limit reached", 2007),
    ("Slurm temporarily unable to accept job", 2007),
    ("Job violates accounting/QOS policy", 2050),
    ("Licenses currently unavailable", 2040),
    ("Requested reservation is in use", 2055),
    ("Requested reservation not usable now", 2056),
    ("Required partition not available (inactive or drain)", 2070),
    ("breached requested QOS usage threshold", 2074),
    ("Requested partition is in the DOWN state", 2101),
    ("The submission of jobs is disabled", 2105),
    ("Access/permission denied", ACCESS_DENIED),
    ("Invalid job id specified", UNKNOWN_JOB),
    ("Job/step already completing or completed", 2021),
    ("Job has already finished", 2084),
    ("Invalid partition name specified", 2000),
    ("Invalid account or account/partition combination specified", 2045),
    ("Invalid qos specification", 2066),
    ("Requested time limit is invalid", 2051),
    ("Requested node configuration is not available", 2014),
    ("Invalid generic resource (gres) specification", 2072),
    ("Invalid feature specification", 2029),
)
_PREFIX: Final = re.compile(r"^\s*(?:sbatch|scancel|squeue|sacct|scontrol|sinfo): (?:(?:error|fatal): )?", re.MULTILINE)
_SUBMISSION_FAILED: Final = re.compile(r"Batch job submission failed: (.*)")
_SYSTEM_WORDS: Final = frozenset(os.strerror(number) for number in errno.errorcode)
# sbatch names the limit in a line of its own: `AssocMaxSubmitJobLimit` passes, `QOSMaxCpuPerJobLimit` does not.
_POLICY: Final = 2050
_LIMIT: Final = re.compile(r"\b(?:Assoc|QOS)\w+Limit\b")


@dataclass(frozen=True)
class Problem:
    """One refusal: Slurm's number (None where it gave none that we know) and Slurm's own words."""

    number: int | None
    words: str

    @property
    def auth(self) -> bool:
        return self.number in _AUTH

    @property
    def transient(self) -> bool:
        """Says nothing about what was asked: Slurm could not be spoken to."""
        return self.number in _NOT_TAKEN or self.number in _IN_DOUBT or self.auth


def from_body(body: dict[str, Any]) -> Problem | None:
    """The first error of a slurmrestd answer, or None if it has none."""
    for error in body.get("errors") or ():
        if not isinstance(error, dict):
            continue
        number = error.get("error_number", error.get("error_code"))
        said = [str(error.get(key) or "") for key in ("error", "description")]
        words = ": ".join(dict.fromkeys(part for part in reversed(said) if part)) or "an error without words"
        return Problem(number if isinstance(number, int) else None, words)
    return None


def from_stderr(stderr: str) -> Problem:
    """What a command printed, with the number that its words stand for."""
    words = "; ".join(line.strip() for line in _PREFIX.sub("", stderr).splitlines() if line.strip())
    number = next((number for text, number in _WORDS if text in stderr), None)
    return Problem(number, words or "no reason given")


def after_submit(problem: Problem) -> SluiceError:
    """Which of the four a failed submit was; `SubmitUnknown` in any doubt."""
    number, words = problem.number, problem.words
    if problem.auth:
        return _auth(words)
    if number in _NOT_TAKEN:
        return SchedulerUnavailable(f"Slurm did not take the job: {words}", slurm_error=number)
    if number == _POLICY and (limit := _LIMIT.search(words)) and "Submit" not in limit[0]:
        return SubmitRefused(f"Slurm refused the job, which is over a limit: {words}", slurm_error=number)
    if number in _LATER:
        return SubmitDeferred(
            f"Slurm takes no more such jobs now: {words}",
            hint="Sluice tries again; a job of yours that ends may make room.",
            slurm_error=number,
        )
    if number in _IN_DOUBT or number is None or (number not in _SLURM_ERRORS and number != -1):
        return SubmitUnknown(f"it is not known whether Slurm took the job: {words}", slurm_error=number)
    return SubmitRefused(f"Slurm refused the job: {words}", slurm_error=number)


def after_sbatch(returncode: int, stderr: str) -> SluiceError:
    """The same for a failed sbatch, of which we have only the words."""
    problem = from_stderr(stderr)
    if problem.number is not None:
        return after_submit(problem)
    found = _SUBMISSION_FAILED.search(stderr)
    system = found is not None and found[1].strip() in _SYSTEM_WORDS
    if returncode != 1 or system:
        return after_submit(problem)  # killed, or its connection to the controller broke
    return SubmitRefused(f"sbatch refused the job: {problem.words}")


def after_question(problem: Problem, what: str) -> SluiceError:
    """A question or an order that Slurm refused; SchedulerUnavailable unless it is a matter of rights."""
    if problem.auth:
        return _auth(problem.words)
    if problem.number == ACCESS_DENIED:
        return Forbidden(f"Slurm refused to {what}: {problem.words}", slurm_error=problem.number)
    return SchedulerUnavailable(f"Slurm could not {what}: {problem.words}", slurm_error=problem.number)


def _auth(words: str) -> SchedulerUnavailable:
    return SchedulerUnavailable(
        f"Slurm does not accept who we say we are: {words}",
        hint="Is the JWT key the cluster's own (AuthAltParameters), and are the clocks in step?",
        slurm_error=1007,
    )
