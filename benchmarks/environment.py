"""What the measurements run on: a real cluster, and a gateway of their own in front of it."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.image import ensure_image
from gateway.cluster import Cluster
from gateway.settings import load

READY_WITHIN = 180.0
IMAGES = ("base", "python", "llama-cpp")
STUB_RECIPE = """\
name: {name}
version: "1"
title: A model server that is no bottleneck
kind: service
image: python
parameters:
  port: {{type: integer, default: 9100}}
service: {service}
resources: {{cpus: 1, memory: 512M, time: 1h}}
script: |
{script}
"""


@dataclass(frozen=True)
class Environment:
    """A cluster, and the gateway's address, token and process."""

    cluster: Cluster
    url: str
    token: str
    config: Path
    pid: int

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@contextmanager
def environment() -> Iterator[Environment]:
    """A running gateway. $SLUICE_BENCH_CLUSTER names a cluster that is up already; else one is made and ended."""
    named = os.environ.get("SLUICE_BENCH_CLUSTER")
    cluster = Cluster.load(named) if named else Cluster.up(f"b{os.getpid()}")
    try:
        with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, serving(cluster, Path(folder)) as env:
            yield env
    finally:
        if not named:
            cluster.down()


@contextmanager
def serving(cluster: Cluster, folder: Path, settings: str = "") -> Iterator[Environment]:
    """A gateway whose state and recipes are in `folder`; `settings` are lines of TOML that stand before any table."""
    script = Path(__file__).with_name("stub.py").read_text()
    recipes = folder / "recipes"
    recipes.mkdir()
    indented = "".join(f"  {line}\n" if line else "\n" for line in script.splitlines())
    kinds = {"bench-stub": "{protocol: openai, model: bench-stub}", "bench-pages": "{protocol: http}"}
    for name, service in kinds.items():
        (recipes / f"{name}.yaml").write_text(STUB_RECIPE.format(name=name, service=service, script=indented))
    config = folder / "sluice.toml"
    config.write_text(
        f"state_dir = {json.dumps(str(folder / 'state'))}\n"
        f"recipes = {{ folders = [{json.dumps(str(recipes))}] }}\n{settings}\n{cluster.settings_toml()}"
    )
    for image in IMAGES:
        print(f"image {image} ...", flush=True)
        asyncio.run(ensure_image(load(config), cluster.name, image, lambda _: None))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "gateway.cli.main", "serve", "all", "--port", str(port)]
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, "SLUICE_CONFIG": str(config)}, stdout=log, stderr=log)
    try:
        until_ready(url, process, folder / "gateway.log")
        yield Environment(cluster, url, (folder / "state" / "token").read_text().strip(), config, process.pid)
    finally:
        process.terminate()
        process.wait()


def until_ready(url: str, process: subprocess.Popen[bytes], log: Path, path: str = "/api/v1/health/live") -> None:
    end = time.monotonic() + READY_WITHIN
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}{path}", timeout=5):  # noqa: S310 - our own address
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the gateway did not come up:\n{log.read_text()[-2000:]}")
