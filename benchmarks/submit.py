"""Sessions accepted (durable) and jobs into Slurm, per second, beside raw posts of the same scripts to slurmrestd."""

import asyncio
import json
import time
from collections.abc import Iterator

from benchmarks.environment import Environment
from benchmarks.load import load
from benchmarks.report import Row, of_runs
from gateway.model.api import SessionRequest
from gateway.model.job import JobOptions, JobScript
from gateway.sdk import Sluice
from gateway.slurm.rest_parse import submission
from gateway.slurm.tokens import Tokens

RUNS, JOBS, CONNECTIONS = 3, 300, 8


def measure(env: Environment) -> Iterator[Row]:
    """Three runs of 300 jobs each way, in turn, so that both meet the same machine.

    Other jobs hold the nodes meanwhile: what is measured is submitting, not what the jobs do on these two cores.
    """
    accepted, submitted, raw = [], [], []
    for _ in range(RUNS):
        _occupy(env)
        rate, into_slurm = _ours(env)
        accepted.append(rate)
        submitted.append(into_slurm)
        raw.append(_raw(env))
        _clear(env)
    note = f"{JOBS} jobs, {CONNECTIONS} connections"
    yield of_runs("sessions accepted, durable", "1/s", accepted, raw, note)
    yield of_runs("jobs into Slurm", "1/s", submitted, raw, f"{note}; raw: POST job/submit")


REQUEST = SessionRequest(recipe="shell-command", parameters={"command": "true"}, resources={"memory": "100M"})


def _ours(env: Environment) -> tuple[float, float]:
    body = REQUEST.model_dump_json().encode()
    began = time.perf_counter()
    url = f"{env.url}/api/v1/sessions"
    result = asyncio.run(load(url, body, headers=env.headers, connections=CONNECTIONS, requests=JOBS))
    assert result.errors == 0, f"{result.errors} sessions were not accepted"
    with Sluice(env.url, env.token) as sluice:
        while any(session.view.job.job_id is None for session in sluice.sessions.list(recipe=REQUEST.recipe)):
            time.sleep(0.05)
    return JOBS / result.took, JOBS / (time.perf_counter() - began)


def _raw(env: Environment) -> float:
    with Sluice(env.url, env.token) as sluice:
        shown = sluice.sessions.dry_run(REQUEST.recipe, parameters=REQUEST.parameters, resources=REQUEST.resources)
    script = JobScript(options=JobOptions.model_validate(shown.options), text=shown.script)
    token = Tokens(env.cluster.jwt_key, time.time).token("alice")
    headers = {"X-SLURM-USER-NAME": "alice", "X-SLURM-USER-TOKEN": token}
    url = f"{env.cluster.rest_url}/slurm/v0.0.45/job/submit"
    body = json.dumps(submission(script)).encode()
    result = asyncio.run(load(url, body, headers=headers, connections=CONNECTIONS, requests=JOBS))
    assert result.errors == 0, f"{result.errors} raw submits failed"
    return JOBS / result.took


def _occupy(env: Environment) -> None:
    nodes = sum(name.startswith("node") for name in env.cluster.addresses)
    words = ["sbatch", "--exclusive", f"--nodes={nodes}", "--output=/dev/null", "--wrap", "sleep 600"]
    env.cluster.exec("login", words, user="bob")
    while not env.cluster.exec("ctl", ["squeue", "-h", "-u", "bob", "-t", "RUNNING"]).stdout.strip():
        time.sleep(0.1)


def _clear(env: Environment) -> None:
    """End what is left in the queue, so that one run does not slow the next."""
    env.cluster.exec("ctl", ["scancel", "--user=alice"])
    env.cluster.exec("ctl", ["scancel", "--user=bob"])
    while env.cluster.exec("ctl", ["squeue", "-h", "-o", "%i"]).stdout.strip():
        time.sleep(0.5)
