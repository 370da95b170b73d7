"""`python3 agent.pyz spec.json`: the batch process of a job. `agent.pyz task FILE`: one of its tasks on a node."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import List

from . import errors, task
from .job import Job
from .journal import Journal
from .places import Places, make_runtime, session_directory
from .spec import load


def main(arguments: List[str]) -> int:
    """The exit code of the job, or of the task."""
    os.umask(0o077)
    if arguments[:1] == ["task"] and arguments[1:]:
        return task.run(arguments[1])
    if len(arguments) != 1:
        sys.stderr.write("usage: agent.pyz SPEC.json | agent.pyz task FILE\n")
        return errors.AGENT_ERROR
    try:
        spec = load(arguments[0])
        places = Places(session_directory(spec["directory"]), spec["attempt"], make_runtime(beside=arguments[0]))
        places.open_session()
        places.open_runtime()
        log = os.open(places.job_log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"sluice: the job cannot be prepared: {error}\n")
        return errors.AGENT_ERROR
    return asyncio.run(_run(spec, places, Journal(log)))


async def _run(spec: "dict[str, object]", places: Places, journal: Journal) -> int:
    return await Job(spec, places, journal).run()
