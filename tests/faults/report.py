"""The table of faults: for the terminal, and as a page of the reference."""

import os
import platform
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.cluster import Cluster
from tests.faults.harness import Result

PAGE = Path("docs/reference/faults.md")
INTRODUCTION = """\
# Faults

`make chaos` breaks things on real Slurm clusters while idempotent clients create, stop and delete sessions through a
real server, lets everything mend by itself, and then asks others than Sluice whether what the clients were told is so:
Slurm's accounting, the queue, and marks that the jobs themselves left. Its exit code is not 0 if a number that must be
zero is not. `make chaos FAULTS="disk-full ssh-cut"` plays some of them; `python -m tests.faults.run --list` names them
all. This page is written by `python -m tests.faults.run --publish`.
"""
READING = """\
- *lost*: accepted sessions that cannot be read any more, never had the job they should have had, or came to no end.
- *doubled*: attempts for which Slurm accepted more than one job.
- *falsely ended*: sessions that read ended while their job waited or ran, or otherwise than the job ended.
- *orphans*: jobs that no session knows, or that are left over.
- *recovered*: seconds from the end of the fault (for `kill -9`: from the kill) until a session that was asked for after
  it had a job. A killed server comes up for 1 to 2 s between two kills (and some kills hit it while it starts), so that
  many a session asked for after one kill gets its job after several.
- Clients repeat what was not answered, with the same `Idempotency-Key`, 0.1 to 2 s later. A third of the sessions are
  stopped, at once or while they wait or run, some are model servers that are stopped when they are ready; half of all
  are deleted when they have ended. A server that ended is started again after 0.2 s, as a service manager does it.
- The clock is stepped for the server alone, by libfaketime; those of Slurm, of the clients and of the audit stay right.
"""
HEAD = (
    "fault",
    "times",
    "sessions",
    "jobs",
    "lost",
    "doubled",
    "falsely ended",
    "orphans",
    "recovered in s, median / max",
)


def table(results: Sequence[Result]) -> str:
    """As Markdown that reads well on a terminal, too."""
    rows = [HEAD, *map(_row, results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [_line(row, widths) for row in rows]
    rule = (
        "|" + "|".join("-" * (width + 2) if n == 0 else "-" * (width + 1) + ":" for n, width in enumerate(widths)) + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def _row(result: Result) -> tuple[str, ...]:
    numbers = (result.times, result.sessions, result.jobs, result.lost, result.doubled, result.falsely_ended)
    recovery = f"{result.median:.1f} / {max(result.recovery):.1f}" if result.recovery else "never"
    return (result.title, *map(str, numbers), str(result.orphans), recovery)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        text.ljust(width) if n == 0 else text.rjust(width)
        for n, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "| " + " | ".join(cells) + " |"


def publish(results: Sequence[Result], facts: Mapping[str, str]) -> None:
    """Write the page."""
    machine = ", ".join(f"{name} {value}" for name, value in facts.items())
    measured = f"Measured with {machine}; clients, servers, Slurm, nodes and jobs of several clusters shared them."
    PAGE.write_text(f"{INTRODUCTION}\n{table(results)}\n\n{READING}\n{measured}\n", encoding="utf-8")


def facts(cluster: Cluster) -> dict[str, str]:
    """What the figures were measured with."""
    said = cluster.exec("ctl", ["sinfo", "--version"]).stdout.split()
    postgresql = max((int(path.name) for path in Path("/usr/lib/postgresql").glob("[0-9]*")), default=0)
    return {
        "Slurm": said[-1],
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "PostgreSQL": str(postgresql),
        "kernel": platform.release().split("-")[0],
        "CPUs:": str(os.cpu_count()),
        "load average:": f"{os.getloadavg()[2]:.0f}",
    }
