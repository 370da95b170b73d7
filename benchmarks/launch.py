"""Launch to ready: a llama.cpp session through the gateway, beside `sbatch` of the same server and a polling curl."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from benchmarks.environment import Environment
from benchmarks.report import Row, of_runs
from gateway.sdk import Sluice

RUNS, PORT = 5, 9200
SCRIPT = """#!/bin/bash
#SBATCH --nodes=1 --cpus-per-task=2 --mem=1G --time=10 --output=/dev/null
exec apptainer --quiet exec --cleanenv {image} llama-server -m /opt/models/tiny.gguf -c 512 -t 1 -a tiny \
  --host 0.0.0.0 --port {port}
"""


def measure(env: Environment) -> Iterator[Row]:
    """Five launches each way, in turn."""
    ours, raw = [], []
    with Sluice(env.url, env.token) as sluice:
        image = sluice.sessions.dry_run("llama-cpp").image
        for run in range(RUNS):
            began = time.perf_counter()
            session = sluice.sessions.create("llama-cpp")
            session.wait("ready", timeout=120)
            ours.append(time.perf_counter() - began)
            session.stop()
            session.wait("ended", timeout=120)
            raw.append(_raw(env, image, PORT + run))
    yield of_runs("launch to ready (llama-cpp)", "s", ours, raw, "raw: sbatch + polling a one-token completion")


def _raw(env: Environment, image: str, port: int) -> float:
    script = SCRIPT.format(image=image, port=port)
    began = time.perf_counter()
    job = env.cluster.exec("login", ["sbatch", "--parsable"], user="alice", input=script).stdout.strip()
    try:
        node = ""
        while not node:
            answer = env.cluster.exec("login", ["squeue", "-h", "-j", job, "-t", "R", "-o", "%N"], user="alice")
            node = answer.stdout.strip()
        while not _answers(f"http://{env.cluster.addresses[node]}:{port}/v1/completions"):
            time.sleep(0.05)
        return time.perf_counter() - began
    finally:
        env.cluster.exec("login", ["scancel", job], user="alice")


def _answers(url: str) -> bool:
    body = json.dumps({"model": "tiny", "prompt": "hi", "max_tokens": 1}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - a node of ours
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False
