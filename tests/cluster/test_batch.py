"""A batch over real jobs: a replica and the client service are killed half way, and no line is lost or doubled."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.cluster import Cluster
from gateway.data import folder as data_folder
from tests.cluster.test_replicas import jobs, ready
from tests.ports import free_port
from tests.product import Product, serving
from tests.waiting import until

pytestmark = pytest.mark.cluster

LINES = 900
#: The gateway itself leaves tasks to the client services of the test.
SETTINGS = "[tasks]\nat_once = 0\nlease_seconds = 2\n"


@pytest.fixture(scope="module")
def product(slurm_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    folder = tmp_path_factory.mktemp("batch")
    (folder / "recipes").mkdir()
    shipped = (data_folder("recipes") / "llama-cpp.yaml").read_text().replace("name: llama-cpp", "name: several")
    replicas = "service:\n  replicas: {target_in_flight: 100, scale_down_after: 600}\n"
    (folder / "recipes" / "several.yaml").write_text(shipped.replace("service:\n", replicas))
    with serving(slurm_cluster, folder, free_port(), SETTINGS) as made:
        done = made.sluice("image", "build", "llama-cpp", within=600)
        assert done.returncode == 0, done.stderr
        yield made


@contextmanager
def client_service(product: Product, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """One more process, which works on tasks."""
    command = [sys.executable, "-m", "gateway.cli.main", "serve", "client", "--port", "0"]
    environ = {**os.environ, **product.environment, "SLUICE_TASKS__AT_ONCE": "4"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environ, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_every_line_of_a_batch_has_one_result_though_a_replica_and_the_client_service_are_killed(
    product: Product, tmp_path: Path
) -> None:
    done = product.sluice("launch", "several", "-p", "alias=batched", "--name", "batched", "--replicas", "2", "--wait")
    assert done.returncode == 0, done.stderr
    found = until(lambda: jobs(product, "batched"), lambda now: ready(now) == [1, 2])
    prompts, results = tmp_path / "prompts.jsonl", tmp_path / "results.jsonl"
    asked = [{"prompt": f"Number {number} is", "max_tokens": 2} for number in range(1, LINES + 1)]
    prompts.write_text("".join(f"{json.dumps(line)}\n" for line in asked))
    started = product.sluice("batch", "run", str(prompts), "--session", "batched", "--concurrency", "4", "--detach")
    assert started.returncode == 0, started.stderr
    task = started.stdout.strip()
    with product.client() as sluice:
        with client_service(product, tmp_path / "one.log") as one:
            until(lambda: sluice.tasks.get(task), lambda now: now.completed >= LINES // 4)
            one.send_signal(signal.SIGKILL)
            one.wait()
        half = sluice.tasks.get(task)
        assert LINES // 4 <= half.completed < LINES
    own = next(job for job in found if job["attempt"] == 1)
    product.cluster.exec("login", ["scancel", str(own["job_id"])], user="alice")
    with client_service(product, tmp_path / "two.log"):
        ended = product.sluice("batch", "wait", task, "-o", str(results), "--timeout", "170")
        assert ended.returncode == 0, ended.stderr
    told = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["custom_id"] for line in told] == [f"line-{number}" for number in range(1, LINES + 1)]
    assert [line["response"]["status_code"] for line in told] == [200] * LINES
    assert product.sluice("stop", "batched", "--wait").returncode == 0
