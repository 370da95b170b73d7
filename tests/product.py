"""The product as a user has it: a gateway process before a real cluster, and the command line."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.cluster import Cluster
from gateway.sdk import Sluice


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
