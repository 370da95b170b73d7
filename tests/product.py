"""The product as a user has it: a gateway process before a real cluster, and the command line."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from gateway.cluster import Cluster
from gateway.sdk import Sluice
from tests.ports import free_port
from tests.waiting import until

STOPPED_WITHIN = 120


@dataclass
class Product:
    """A gateway of the test's own before the cluster."""

    cluster: Cluster
    url: str
    environment: dict[str, str]
    log: Path
    pid: int

    def sluice(self, *words: str, within: float = 180) -> subprocess.CompletedProcess[str]:
        """A command as a user types it."""
        command = [sys.executable, "-m", "gateway.cli.main", *words]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=within
        )

    def as_(self, token: str) -> "Product":
        """The same in the hands of who holds this token."""
        return replace(self, environment={**self.environment, "SLUICE_TOKEN": token})

    def json(self, *words: str) -> Any:
        """The answer of a command that must succeed."""
        done = self.sluice(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def client(self) -> Sluice:
        return Sluice(self.url, self.environment["SLUICE_TOKEN"])


@contextlib.contextmanager
def serving(cluster: Cluster, folder: Path, port: int, more: str = "", serve: str = "") -> Iterator[Product]:
    """A gateway process with the recipes in `folder` and more settings, those of `serve` apart; held by its admin."""
    config = folder / "sluice.toml"
    config.write_text(
        f"state_dir = {json.dumps(str(folder / 'state'))}\n"
        f"[recipes]\nfolders = [{json.dumps(str(folder / 'recipes'))}]\n"
        f"[serve]\nall_port = {port}\n{serve}\n[reconcile]\npoll_seconds = 0.5\nsweep_seconds = 3\n"
        f"{cluster.settings_toml()}\n{more}"
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
            until(lambda: process.poll() is not None or (token.exists() and probe.alive()), what="the gateway answers")
        assert process.poll() is None, log.read_text()
        environment["SLUICE_TOKEN"] = token.read_text().strip()
        yield Product(cluster, url, environment, log, process.pid)
    finally:
        process.terminate()
        assert process.wait(STOPPED_WITHIN) == 0, log.read_text()[-3000:]


@contextlib.contextmanager
def a_client_service(product: Product, way: str, folder: Path) -> Iterator[str]:
    """A client service of its own before the same sessions, which reaches the nodes in this way; its address."""
    port = free_port()
    environment = {**product.environment, f"SLUICE_CLUSTERS__{product.cluster.record.spec.name.upper()}__PATH": way}
    command = [sys.executable, "-m", "gateway.cli.main", "serve", "client", "--port", str(port), "--grace", "2"]
    with (folder / f"client-{way}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or _answers(address), what="the client service answers")
        assert process.poll() is None, (folder / f"client-{way}.log").read_text()
        yield address
    finally:
        process.terminate()
        process.wait(60)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health/live", timeout=60).is_success
    except httpx.TransportError:
        return False
