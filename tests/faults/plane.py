"""What faults cost those who call a service: `python -m tests.faults.plane` plays them under load on a real cluster.

A model server has a job on each of two nodes; server, client service and PostgreSQL are processes of their own.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx

from gateway.cluster import Cluster
from tests.faults import report
from tests.faults.stage import Server, Setting, Stage, staged, until_alive
from tests.ports import free_port
from tests.waiting import until_so

PAGE = Path("docs/reference/faults-data-plane.md")
NAME, MODEL, CPUS = "plane", "plane-model", 9
#: Callers that ask for an answer at once, and that read a stream; each asks again when it has been answered.
SHORT, LONG, PAUSE = 6, 4, 0.1
CALM = 5.0
WITHIN = 300.0
HEAD = ("fault", "requests", "failed before the first byte", "cut after the first byte", "s until all is well")
INTRODUCTION = """\
# Faults of the data plane

What a fault costs those who call a model server meanwhile. The session has a job on each of two nodes; the server, the
client service and PostgreSQL are processes of their own. Six callers ask for short answers and four read streams, each
again as soon as it was answered, and none repeats what failed. A fault that does not end by itself lasts ten seconds.
This page is written by `python -m tests.faults.plane --publish`.
"""
READING = """\
- *failed before the first byte*: an error, or no connection. *cut after the first byte*: a stream that did not come to
  its end. What is under way in a job that dies, or in a client service that dies, can only be cut.
- *s until all is well*: from the fault until the last request that failed was over; 0 where none failed.
"""


@dataclass(frozen=True)
class Fault:
    """Something that breaks: how, for so many seconds, and how it is mended."""

    name: str
    title: str
    strike: Callable[["Scene"], Awaitable[None]]
    mend: Callable[["Scene"], Awaitable[None]] | None = None
    seconds: float = 10.0


@dataclass(frozen=True)
class Cost:
    """What it cost."""

    title: str
    sent: int
    failed: int
    cut: int
    seconds: float

    def row(self) -> str:
        return f"| {self.title} | {self.sent} | {self.failed} | {self.cut} | {self.seconds:.1f} |"


@dataclass
class Scene:
    """Who plays."""

    stage: Stage
    client: Server

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.stage.token}"}

    async def ready_nodes(self) -> list[str]:
        """Where jobs of the session are that take requests."""
        async with httpx.AsyncClient(headers=self.auth, timeout=30) as http:
            try:
                answer = await http.get(f"{self.stage.servers[0].url}/api/v1/sessions/{NAME}/jobs")
            except httpx.TransportError:
                return []
        rows: list[dict[str, Any]] = answer.json()["items"] if answer.is_success else []
        return sorted(job["nodes"] for job in rows if job["phase"] == "ready" and not job["draining"])


class Load:
    """Callers that ask until they are told that it is enough."""

    def __init__(self, scene: Scene) -> None:
        self._url, self._auth = f"{scene.client.url}/v1/chat/completions", scene.auth
        self.sent = self.failed = self.cut = 0
        self.last_bad = float("-inf")
        self.over = False

    async def run(self) -> None:
        async with httpx.AsyncClient(headers=self._auth, timeout=90) as http, asyncio.TaskGroup() as group:
            for number in range(SHORT + LONG):
                group.create_task(self._caller(http, stream=number >= SHORT))

    async def _caller(self, http: httpx.AsyncClient, *, stream: bool) -> None:
        while not self.over:
            self.sent += 1
            begun = await self._ask(http, stream=stream)
            if begun is not None:
                self.last_bad = time.monotonic()
                self.cut, self.failed = self.cut + begun, self.failed + (not begun)
            await asyncio.sleep(PAUSE)

    async def _ask(self, http: httpx.AsyncClient, *, stream: bool) -> bool | None:
        """None if it was answered to the end; else whether the answer had begun."""
        messages = [{"role": "user", "content": "Hello"}]
        asked = {"model": MODEL, "max_tokens": 200 if stream else 2, "stream": stream, "messages": messages}
        told = b""
        try:
            async with http.stream("POST", self._url, json=asked) as answer:
                if not answer.is_success:
                    return False
                async for piece in answer.aiter_bytes():
                    told += piece
        except httpx.HTTPError:
            return bool(told)
        return None if not stream or b"data: [DONE]" in told[-64:] else bool(told)


@asynccontextmanager
async def scene_on(cluster: Cluster) -> AsyncIterator[Scene]:
    """The processes, and the session with both of its jobs ready."""
    async with staged(cluster, Setting(database="postgresql")) as stage:
        server = stage.servers[0]
        scene = Scene(stage, Server(free_port(), server.environment, stage.folder / "client.log", "client"))
        scene.client.start()
        try:
            await until_alive(scene.client)
            asked = {
                "recipe": "llama-cpp",
                "name": NAME,
                "parameters": {"alias": MODEL},
                "resources": {"cpus": CPUS},
                "replicas": {"min": 2, "max": 2},
            }
            async with httpx.AsyncClient(headers=scene.auth, timeout=30) as http:
                (await http.post(f"{server.url}/api/v1/sessions", json=asked)).raise_for_status()
                await until_so(scene.ready_nodes, lambda nodes: len(nodes) == 2, within=WITHIN, what="two jobs")
                try:
                    yield scene
                finally:
                    await http.post(f"{server.url}/api/v1/sessions/{NAME}/stop")
        finally:
            await scene.client.stop()


async def play(fault: Fault, scene: Scene) -> Cost:
    """The fault under load, until nothing has failed for a while and both jobs are ready again."""
    load = Load(scene)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        try:
            await until_so(lambda: load.sent > 3 * (SHORT + LONG), within=WITHIN, what="load")
            began = time.monotonic()
            await fault.strike(scene)
            if fault.mend is not None:
                await asyncio.sleep(fault.seconds)
                await fault.mend(scene)
            mended, sent = time.monotonic(), load.sent
            await until_so(
                lambda: load.sent > sent + SHORT + LONG and time.monotonic() - max(load.last_bad, mended) > CALM,
                within=WITHIN,
                what="all is well",
            )
        finally:
            load.over = True
    await until_so(scene.ready_nodes, lambda nodes: len(nodes) == 2, within=WITHIN, what="two jobs again")
    return Cost(fault.title, load.sent, load.failed, load.cut, max(0.0, load.last_bad - began))


async def _kill_client(scene: Scene) -> None:
    scene.client.send(signal.SIGKILL)


async def _stop_server(scene: Scene) -> None:
    await scene.stage.servers[0].stop()


async def _start_server(scene: Scene) -> None:
    scene.stage.servers[0].start()
    await until_alive(scene.stage.servers[0])


async def _stop_database(scene: Scene) -> None:
    assert scene.stage.postgresql is not None
    await asyncio.to_thread(scene.stage.postgresql.stop, signal.SIGQUIT)


async def _start_database(scene: Scene) -> None:
    assert scene.stage.postgresql is not None
    await asyncio.to_thread(scene.stage.postgresql.start)


def _service(action: str) -> Callable[[Scene], Awaitable[None]]:
    async def do(scene: Scene) -> None:
        await asyncio.to_thread(scene.stage.cluster.service, "ctl", action, "slurmctld")

    return do


async def _cut_link(scene: Scene) -> None:
    await asyncio.to_thread(scene.stage.cluster.cut_link, "node2")


async def _restore_link(scene: Scene) -> None:
    await asyncio.to_thread(scene.stage.cluster.restore_link, "node2")


async def _kill_node(scene: Scene) -> None:
    await asyncio.to_thread(scene.stage.cluster.kill_host, "node2")


async def _start_node(scene: Scene) -> None:
    scene.stage.cluster = await asyncio.to_thread(scene.stage.cluster.start_host, "node2")


CLIENT_KILLED = Fault("client-killed", "Client service killed and restarted", _kill_client)
FAULTS: Sequence[Fault] = (
    CLIENT_KILLED,
    Fault("server-down", "Server down", _stop_server, _start_server),
    Fault("database-down", "Database down", _stop_database, _start_database),
    Fault("slurmctld-down", "slurmctld down", _service("stop"), _service("start")),
    Fault("link-cut", "Link to a node cut and restored", _cut_link, _restore_link),
    Fault("node-killed", "A node killed and started again", _kill_node, _start_node),
)


def table(costs: Sequence[Cost]) -> str:
    return "\n".join([f"| {' | '.join(HEAD)} |", "|---|--:|--:|--:|--:|", *(cost.row() for cost in costs)])


async def _all(cluster: Cluster, names: Collection[str]) -> list[Cost]:
    costs = []
    async with scene_on(cluster) as scene:
        for fault in FAULTS:
            if not names or fault.name in names:
                costs.append(await play(fault, scene))
                click.echo(costs[-1].row())
    return costs


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([fault.name for fault in FAULTS]))
@click.option("--cluster", "running", help="Play on this running cluster.")
@click.option("--publish", is_flag=True, help=f"Write {PAGE}.")
def main(names: tuple[str, ...], running: str | None, *, publish: bool) -> None:
    """Play the faults NAMES, or all, under load."""
    if os.geteuid() != 0:
        sys.exit("it needs root")
    cluster = Cluster.load(running) if running else Cluster.up("plane")
    try:
        costs = asyncio.run(_all(cluster, names))
        if publish:
            machine = ", ".join(f"{name} {value}" for name, value in report.facts(cluster).items())
            measured = f"Measured with {machine}; the calls, the services and Slurm shared them."
            PAGE.write_text(f"{INTRODUCTION}\n{table(costs)}\n\n{READING}\n{measured}\n")
    finally:
        if not running:
            Cluster.load(cluster.name).down()


if __name__ == "__main__":
    main()
