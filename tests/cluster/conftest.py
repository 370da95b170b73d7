"""A gateway process of the tests' own before the real cluster."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gateway.cluster import Cluster
from gateway.data import folder as data_folder
from gateway.sdk import Sluice
from tests.ports import free_port
from tests.product import Product

STOPPED_WITHIN = 40
# A batch program whose job Slurm may start again, and that needs a secret each time.
REQUEUED = """
name: requeued
version: "1"
kind: batch
image: base
parameters:
  command: {type: string}
  token: {type: secret, required: false}
secrets:
  TOKEN: {parameter: token}
command: [/bin/bash, -c, "{{ command }}"]
resources: {cpus: 1, memory: 100M, time: 30m}
lifecycle: {requeue: true}
"""


@pytest.fixture(scope="module")
def product(slurm_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    folder = tmp_path_factory.mktemp("product")
    port = free_port()
    (folder / "recipes").mkdir()
    (folder / "recipes" / "needs-nothing.yaml").write_text(
        'name: needs-nothing\nversion: "1"\nkind: batch\nimage: nothing\ncommand: ["true"]\n'
    )
    (folder / "recipes" / "requeued.yaml").write_text(REQUEUED)
    shipped = data_folder("recipes") / "llama-cpp.yaml"
    model = shipped.read_text().replace("name: llama-cpp", "name: requeued-model")
    (folder / "recipes" / "requeued-model.yaml").write_text(f"{model}\nlifecycle: {{requeue: true}}\n")
    config = folder / "sluice.toml"
    config.write_text(
        f"state_dir = {json.dumps(str(folder / 'state'))}\n"
        f"[recipes]\nfolders = [{json.dumps(str(folder / 'recipes'))}]\n"
        f"[serve]\nall_port = {port}\n[reconcile]\npoll_seconds = 0.5\nsweep_seconds = 3\n"
        f"{slurm_cluster.settings_toml()}"
    )
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "SLUICE_CONFIG": str(config), "SLUICE_URL": url}
    log = folder / "gateway.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "gateway.cli.main", "serve", "all"]
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        token = folder / "state" / "token"
        with Sluice(url, "none") as probe:
            while not (token.exists() and probe.alive()):
                assert process.poll() is None, log.read_text()
        environment["SLUICE_TOKEN"] = token.read_text().strip()
        yield Product(slurm_cluster, url, environment, log, process.pid)
    finally:
        process.terminate()
        assert process.wait(STOPPED_WITHIN) == 0, log.read_text()[-3000:]


@pytest.fixture(scope="module")
def images(product: Product) -> None:
    """The images that these tests use, built as an operator builds them."""
    for name in ("base", "llama-cpp"):
        done = product.sluice("image", "build", name, within=600)
        assert done.returncode == 0, done.stderr
