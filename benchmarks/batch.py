"""Batches of 10,000 lines: how fast beside asking the same server directly, and what is lost when things are killed.

A gateway of its own for each kind of database, whose tasks are worked on by a process of the client service, so that
this one can be killed by SIGKILL half way, after one of two jobs of the session was cancelled.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.environment import Environment, serving, until_ready
from benchmarks.hammer import hammer
from benchmarks.peers import free_port
from benchmarks.processes import cost
from benchmarks.report import Row
from gateway.data import folder as data_folder
from gateway.model.task import TaskView
from gateway.sdk import Sluice
from tests.postgresql import serving as postgresql
from tests.waiting import until

LINES = 10_000
#: Lines under way: what one replica gets at once unless settings or its recipe say otherwise.
CONNECTIONS = 16
DIRECT_SECONDS = 5.0
READY_WITHIN, DONE_WITHIN = 180.0, 3600.0
STUB, LLAMA = "bench-stub", "bench-llama"
SETTINGS = "tasks = { at_once = 0 }"
ASKED, BODY = "/v1/completions", {"prompt": "hi", "max_tokens": 1}


def measure(env: Environment) -> Iterator[Row]:
    """On SQLite and on PostgreSQL; $SLUICE_BENCH_LINES says how many lines, if not 10,000."""
    lines = int(os.environ.get("SLUICE_BENCH_LINES", LINES))
    with tempfile.TemporaryDirectory(prefix="sluice-batch-") as folder:
        yield from _on("SQLite", env, Path(folder), lines, SETTINGS)
    with postgresql() as server, tempfile.TemporaryDirectory(prefix="sluice-batch-") as folder:
        server.run("CREATE DATABASE batch TEMPLATE template0")
        address = f"database_url = {json.dumps(server.url('batch'))}"
        yield from _on("PostgreSQL", env, Path(folder), lines, f"{address}\n{SETTINGS}")


def _on(kind: str, env: Environment, folder: Path, lines: int, settings: str) -> Iterator[Row]:
    with serving(env.cluster, folder, settings) as own, Sluice(own.url, own.token) as sluice:
        _recipe(folder / "recipes")
        print(f"  {kind}: beside the stub server ...", flush=True)
        yield from _speed(kind, own, sluice, folder, lines)
        print(f"  {kind}: with faults ...", flush=True)
        yield from _faults(kind, own, sluice, folder, lines)


def _recipe(folder: Path) -> None:
    """llama.cpp with two replicas."""
    shipped = (data_folder("recipes") / "llama-cpp.yaml").read_text().replace("name: llama-cpp", f"name: {LLAMA}")
    replicas = "service:\n  replicas: {min: 2, max: 2}\n"
    (folder / f"{LLAMA}.yaml").write_text(shipped.replace("service:\n", replicas))


def _speed(kind: str, env: Environment, sluice: Sluice, folder: Path, lines: int) -> Iterator[Row]:
    """A server that answers at once: what a line costs."""
    session = sluice.sessions.create(STUB)
    try:
        session.wait("ready", timeout=READY_WITHIN)
        node = env.cluster.addresses[sluice.sessions.get(session.id).view.job.nodes]
        asked = json.dumps({**BODY, "model": STUB}).encode()
        direct = asyncio.run(
            hammer(
                f"http://{node}:9100{ASKED}",
                asked,
                {},
                connections=CONNECTIONS,
                seconds=DIRECT_SECONDS,
                warm=1.0,
            )
        )
        prompts = _prompts(folder, lines)
        with client_service(env, folder, "speed") as process, cost([process.pid]) as spent:
            began = time.perf_counter()
            task = sluice.tasks.create(session.id, prompts, concurrency=CONNECTIONS)
            done = sluice.tasks.wait(task.id, timeout=DONE_WITHIN)
            took = time.perf_counter() - began
        _whole(done, lines)
        each = f"{spent.cpu / lines * 1000:.2f} ms of CPU a line, {spent.peak:.0f} MB"
        note = f"{lines} lines in {took:.1f} s, {each}; raw: the same server, {CONNECTIONS} connections"
        yield Row(f"batch lines ({kind})", "1/s", lines / took, direct.rate, note=note)
    finally:
        session.stop()


def _faults(kind: str, env: Environment, sluice: Sluice, folder: Path, lines: int) -> Iterator[Row]:
    """Real models: one of two jobs is cancelled, then the client service is killed and started again."""
    session = sluice.sessions.create(LLAMA, parameters={"threads": 1})
    try:
        session.wait("ready", timeout=READY_WITHIN)
        found = until(lambda: _running(env), lambda now: len(now) == 2, within=READY_WITHIN)
        prompts, began = _prompts(folder, lines), time.perf_counter()
        task = sluice.tasks.create(session.id, prompts)
        with client_service(env, folder, "killed") as process:
            until(lambda: sluice.tasks.get(task.id).completed, lambda now: now >= lines // 3, within=DONE_WITHIN)
            env.cluster.exec("login", ["scancel", str(min(found))], user="alice")
            until(lambda: sluice.tasks.get(task.id).completed, lambda now: now >= lines // 2, within=DONE_WITHIN)
            process.kill()
            process.wait()
        killed, half = time.perf_counter(), sluice.tasks.get(task.id).completed
        with client_service(env, folder, "again"):
            until(lambda: sluice.tasks.get(task.id).completed, lambda now: now > half, within=DONE_WITHIN)
            away = time.perf_counter() - killed
            done = sluice.tasks.wait(task.id, timeout=DONE_WITHIN)
            took = time.perf_counter() - began
        _whole(done, lines)
        told = [json.loads(line) for line in b"".join(sluice.tasks.download(task.id)).splitlines()]
    finally:
        session.stop()
    wanted, ids = [f"n{number}" for number in range(1, lines + 1)], [line["custom_id"] for line in told]
    wrong = sum(line["error"] is not None or line["response"]["status_code"] != 200 for line in told)
    what = f"batch with faults ({kind})"
    note = f"a job cancelled at a third; the client service killed at {half} lines, {away:.1f} s to the next result"
    yield Row(f"{what}: results", "lines", len(told), lines, note=note)
    yield Row(f"{what}: lost", "lines", len(set(wanted) - set(ids)))
    yield Row(f"{what}: doubled", "lines", sum(number - 1 for number in Counter(ids).values()))
    yield Row(f"{what}: out of order", "lines", sum(one != other for one, other in zip(ids, wanted, strict=False)))
    yield Row(f"{what}: with an error", "lines", wrong)
    yield Row(f"{what}: lines", "1/s", lines / took, note=f"llama.cpp in two jobs, {took:.0f} s in all")


@contextmanager
def client_service(env: Environment, folder: Path, name: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that works on the tasks."""
    port, log = free_port(), folder / f"{name}.log"
    argv = [sys.executable, "-m", "gateway.cli.main", "serve", "client", "--port", str(port)]
    environ = {**os.environ, "SLUICE_CONFIG": str(env.config), "SLUICE_TASKS__AT_ONCE": "8"}
    with log.open("wb") as file:
        process = subprocess.Popen(argv, env=environ, stdout=file, stderr=file)
    try:
        until_ready(f"http://127.0.0.1:{port}", process, log, "/health/live")
        yield process
    finally:
        process.terminate()
        process.wait()


def _prompts(folder: Path, lines: int) -> Path:
    path = folder / "prompts.jsonl"
    asked = ({"custom_id": f"n{number}", "url": ASKED, "body": BODY} for number in range(1, lines + 1))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in asked))
    return path


def _whole(done: TaskView, lines: int) -> None:
    """What is measured has to be done."""
    if (done.phase.value, done.total) != ("completed", lines):
        raise RuntimeError(f"the batch is {done.phase}: {done.completed} of {done.total}. {done.message}")


def _running(env: Environment) -> set[int]:
    words = ["squeue", "-h", "-t", "R", "-o", "%A %j"]
    found = env.cluster.exec("login", words, user="alice").stdout.splitlines()
    return {int(line.split()[0]) for line in found if line.split()[1].startswith("sluice-")}
