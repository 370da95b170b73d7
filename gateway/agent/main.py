"""`python3 agent.pyz spec.json`: the batch process of a job. `agent.pyz task FILE`: one of its tasks on a node."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any, Dict, List

from . import claim, errors, task
from .announce import Announcer, update_command, word
from .job import Job
from .journal import Journal
from .launch import RUNTIME
from .places import Places, make_runtime, remove_tree, session_directory
from .processes import Payload
from .spec import load
from .watchdog import Watchdog

_TELL_SECONDS = 3600.0


def main(arguments: List[str]) -> int:
    """The exit code of the job, or of the task."""
    os.umask(0o077)
    if arguments[:1] == ["task"] and arguments[1:]:
        return task.run(arguments[1])
    if len(arguments) != 1:
        sys.stderr.write("usage: agent.pyz SPEC.json | agent.pyz task FILE\n")
        return errors.AGENT_ERROR
    spec: Dict[str, Any] = {}
    runtime = ""
    try:
        spec = load(arguments[0])
        runtime = make_runtime(beside=arguments[0])
        places = Places(session_directory(spec["directory"]), spec["attempt"], runtime)
        places.open_session()
        places.open_runtime()
        log = os.open(places.job_log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        job_id = os.environ.get("SLURM_JOB_ID", "")
        holder = claim.take(places.claim, job_id) if job_id else None
    except (OSError, ValueError) as error:
        if runtime:
            remove_tree(runtime)
        return _cannot_prepare(spec, error)
    if holder is not None:
        places.remove_runtime()
        return asyncio.run(_make_way(spec, Journal(log), job_id, holder))
    watchdog = Watchdog(f"{RUNTIME}={runtime}", runtime)
    return asyncio.run(_run(spec, places, Journal(log), watchdog))


async def _run(spec: Dict[str, Any], places: Places, journal: Journal, watchdog: Watchdog) -> int:
    code = await Job(spec, places, journal, watchdog).run()
    # Everything is done and told. A thread that still waits for an answer of the program cannot hold the job.
    os._exit(code)


async def _make_way(spec: Dict[str, Any], journal: Journal, job_id: str, holder: str) -> int:
    """Another job has begun this attempt of the session: end at once, and say which, however long Slurm is away."""
    journal.say(f"job {holder} has begun attempt {spec['attempt']} of this session: job {job_id} makes way for it")
    announcer = Announcer(Payload().tool, journal.say, job_id, spec["comment_field"])
    announcer.announce(f"{word(spec)} ended reason=duplicate code={errors.DUPLICATE} holder={holder}")
    await announcer.settle(_TELL_SECONDS)
    await announcer.close()
    return errors.DUPLICATE


def _cannot_prepare(spec: Dict[str, Any], error: Exception) -> int:
    """There is no log yet: say it on stderr, and the end in the job's comment, once."""
    code = errors.AGENT_ERROR
    sys.stderr.write(f"sluice: the job cannot be prepared: {error}\n")
    job_id = os.environ.get("SLURM_JOB_ID")
    if job_id:
        text = f"{word(spec)} ended reason=agent_error code={code}"
        try:
            subprocess.run(update_command(job_id, spec.get("comment_field", "comment"), text), timeout=20, check=True)
        except (OSError, subprocess.SubprocessError) as failed:
            sys.stderr.write(f"sluice: Slurm could not be told: {failed}\n")
    return code
