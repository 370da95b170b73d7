"""What a fault is played on: a real cluster, and gateway processes that are started again when they end."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx

from gateway.cluster import Cluster
from tests.ports import free_port
from tests.postgresql import Server as Postgresql
from tests.postgresql import serving

RECIPE = """\
name: fault
version: "1"
kind: batch
image: base
parameters:
  seconds: {type: number, default: 0, minimum: 0}
  code: {type: integer, default: 0}
command:
  - /bin/sh
  - -c
  - 'echo $SLURM_RESTART_COUNT >>/session/started-$SLURM_JOB_ID; sleep "$0"; exit "$1"'
  - "{{ seconds }}"
  - "{{ code }}"
resources: {cpus: 1, memory: 64M, time: 10m}
"""
RESTART_AFTER = 0.2
ENDS_WITHIN = 60.0
SMALL_DISK = "24m"
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a fault needs. `clock`: the servers' clocks can be moved; `small_disk`: state_dir can be filled."""

    backend: Literal["rest", "cli"] = "rest"
    database: Literal["sqlite", "postgresql"] = "sqlite"
    servers: int = 1
    clock: bool = False
    small_disk: bool = False


@dataclass
class Server:
    """One gateway process at a fixed address. What ends it is repaired as a service manager does it: by a new one."""

    port: int
    environment: dict[str, str]
    log: Path
    role: Literal["server", "client"] = "server"
    starts: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    _keeper: "asyncio.Task[None] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    async def keep(self) -> None:
        """Start it, and again whenever it ended."""
        # It must not outlive a harness that is killed.
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "gateway.cli.main"]
        while True:
            with self.log.open("ab") as out:
                self.process = subprocess.Popen(
                    [*command, "serve", self.role, "--port", str(self.port)],
                    env=self.environment,
                    stdout=out,
                    stderr=out,
                )
            self.starts += 1
            while self.process.poll() is None:
                await asyncio.sleep(0.05)
            await asyncio.sleep(RESTART_AFTER)

    def start(self) -> None:
        self._keeper = asyncio.create_task(self.keep())

    async def stop(self) -> int | None:
        """End it in good order; its exit code."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            return await asyncio.to_thread(self.process.wait, ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return await asyncio.to_thread(self.process.wait)


@dataclass
class Stage:
    """The cluster and the servers before it. `folder` holds logs and settings, `state` what the servers keep."""

    cluster: Cluster
    folder: Path
    state: Path
    servers: list[Server] = field(default_factory=list)
    postgresql: Postgresql | None = None

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    @property
    def token(self) -> str:
        return (self.state / "token").read_text().strip()

    @property
    def offset(self) -> Path:
        """The file that says by how much the servers' clocks are wrong, as libfaketime reads it."""
        return self.folder / "offset"

    def log_ends(self, lines: int = 15) -> str:
        """What the servers said last, beside one line for each request."""
        found: list[str] = []
        for server in self.servers:
            said = [line for line in server.log.read_text().splitlines() if '"event": "request"' not in line]
            found += [line[:400] for line in said[-lines:]]
        return "\n".join(found)

    def keep_logs(self, folder: Path) -> None:
        """Copy the servers' logs, for who wants to know why."""
        folder.mkdir(parents=True, exist_ok=True)
        for server in self.servers:
            shutil.copy(server.log, folder)


@asynccontextmanager
async def staged(cluster: Cluster, setting: Setting) -> AsyncIterator[Stage]:
    """Servers that answer before the cluster, until the block ends."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-faults-")))
        state = folder / "state"
        if setting.small_disk:
            stack.enter_context(small_disk(state))
        postgresql = stack.enter_context(serving()) if setting.database == "postgresql" else None
        stage = Stage(cluster, folder, state, postgresql=postgresql)
        config = write_settings(stage, setting)
        await asyncio.to_thread(ensure, config, cluster.name)
        environment = {**os.environ, "SLUICE_CONFIG": str(config)}
        if setting.clock:
            stage.offset.write_text("+0")
            environment |= faked(stage.offset)
        stage.servers = [
            Server(free_port(), environment, folder / f"server-{number}.log") for number in range(setting.servers)
        ]
        try:
            for server in stage.servers:
                server.start()
                await until_alive(server)
            yield stage
        finally:
            for server in stage.servers:
                await server.stop()


def write_settings(stage: Stage, setting: Setting) -> Path:
    recipes = stage.folder / "recipes"
    recipes.mkdir()
    (recipes / "fault.yaml").write_text(RECIPE)
    cluster = stage.cluster.settings_toml()
    if setting.backend == "cli":
        cluster = "\n".join(
            line for line in cluster.splitlines() if not line.startswith(("rest_url", "jwt_key_file"))
        ).replace('backend = "rest"', 'backend = "cli"')
    database = ""
    if stage.postgresql is not None:
        stage.postgresql.run("CREATE DATABASE sluice TEMPLATE template0")
        database = f"database_url = {json.dumps(stage.postgresql.url('sluice'))}\n"
    config = stage.folder / "sluice.toml"
    config.write_text(
        f"state_dir = {json.dumps(str(stage.state))}\n{database}"
        f"[recipes]\nfolders = [{json.dumps(str(recipes))}]\n{cluster}"
    )
    return config


def ensure(config: Path, cluster: str) -> None:
    """The images of the jobs, built where no earlier run left them: llama-cpp, and base, on which it is built."""
    command = [sys.executable, "-m", "gateway.cli.main", "image", "build", "llama-cpp", "--cluster", cluster]
    done = subprocess.run(
        command, env={**os.environ, "SLUICE_CONFIG": str(config)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def faked(offset: Path) -> dict[str, str]:
    """The environment in which a program sees the wall clock moved by what the file says; other clocks stay."""
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own, of a few MB."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK},mode=0700", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def until_alive(server: Server, within: float = 180.0) -> None:
    """Wait until it answers."""
    end = time.monotonic() + within
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        while True:
            try:
                below = "/api/v1" if server.role == "server" else ""
                if (await client.get(f"{server.url}{below}/health/live")).is_success:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() > end:
                raise AssertionError(f"the server does not start:\n{server.log.read_text()[-3000:]}")
            await asyncio.sleep(0.05)
