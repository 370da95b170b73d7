"""A gateway on a real database of each kind and a real catalogue, before the shipped in-memory Slurm."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.core import sessions
from gateway.core.context import Cluster, Gateway
from gateway.core.leases import Hold, moment
from gateway.core.recipes import Catalogue
from gateway.core.reconcile import ClusterLoop
from gateway.identity.keyring import Keyring
from gateway.model.api import SessionRequest
from gateway.model.image import Image
from gateway.model.lease import Lease, Server
from gateway.model.principal import Principal, Role
from gateway.model.session import Session
from gateway.network.fake import FakeAgents
from gateway.settings import Settings
from gateway.slurm.fake import FakeSlurm
from gateway.slurm.mounted import MountedFiles
from gateway.store import images, leases
from gateway.store.database import Database
from gateway.store.leases import Grip

LONG = 3600.0
RECIPES = {
    "echo": 'name: echo\nversion: "1"\nkind: service\nimage: base\ncommand: [serve]\nservice: {protocol: http}\n',
    "pool": 'name: pool\nversion: "1"\nkind: service\nimage: base\ncommand: [serve]\nresources: {time: 1h}\n'
    "parameters:\n  size: {type: integer, default: 1}\nenv: {SIZE: '{{ size }}'}\n"
    "service: {protocol: openai, model: m, replicas: {min: 2, max: 3, target_in_flight: 4, scale_down_after: 60}}\n",
    "solo": 'name: solo\nversion: "1"\nkind: service\nimage: base\ncommand: [serve]\nresources: {time: 1h}\n'
    "parameters:\n  size: {type: integer, default: 1}\nenv: {SIZE: '{{ size }}'}\n"
    "service: {protocol: openai, model: m}\n",
    "nap": 'name: nap\nversion: "1"\nkind: service\nimage: base\ncommand: [serve]\n'
    "service: {protocol: openai, model: m, replicas: {min: 0, scale_down_after: 60}}\n",
    "desk": 'name: desk\nversion: "1"\nkind: service\nimage: base\ncommand: [serve]\nresources: {time: 1h}\n'
    "service: {protocol: http}\nlifecycle: {idle: [{connected: true, after: 2h}, {after: 10m, warn: 2m}]}\n",
    "lab": 'name: lab\nversion: "1"\nkind: service\nimage: base\ncommand: [serve]\nresources: {time: 9h}\n'
    "service: {protocol: http}\nlifecycle: {idle: [{kernels: true, after: 10m, warn: 2m}]}\n",
    "count": 'name: count\nversion: "1"\nkind: batch\nimage: base\ncommand: [count, "{{ to }}"]\n'
    "parameters:\n  to: {type: integer, default: 3, maximum: 9}\n",
    "login": 'name: login\nversion: "1"\nkind: batch\nimage: base\ncommand: [login]\n'
    "parameters:\n  token: {type: secret}\nsecrets:\n  HUB_TOKEN: {parameter: token}\n",
}


@dataclass
class Time:
    """A clock that moves when it is told to."""

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    passed: float = 1000.0

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.passed += seconds

    def set_(self, seconds: float) -> None:
        """Somebody sets the time of day, forth or back; nothing passes."""
        self.now += timedelta(seconds=seconds)

    def moment(self) -> float:
        return self.passed


ANN = Principal(name="ann", projects={"default": Role.MEMBER}, unix={"c": "ann"})


@dataclass
class World:
    """Everything a test of core touches."""

    gateway: Gateway
    slurm: FakeSlurm
    agents: FakeAgents
    time: Time
    loop: ClusterLoop
    hold: Hold
    home: Path
    caller: Principal = field(default_factory=lambda: ANN)

    async def turn(self, times: int = 1) -> None:
        """Turns of the reconcile loop, each with everything that it sets off."""
        for _ in range(times):
            await self.loop.turn()
            await self.loop.settle()

    def restarted(self) -> None:
        """The process was killed and another one goes on: nothing is left but the database."""
        self.loop = ClusterLoop(self.gateway, self.gateway.clusters["c"], self.hold)


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
async def world(tmp_path: Path, recipes: Path, database: Database) -> AsyncIterator[World]:
    time, agents = Time(), FakeAgents()
    slurm = FakeSlurm(clock=time)
    home = tmp_path / "home"
    home.mkdir()
    settings = Settings.model_validate(
        {
            "state_dir": tmp_path / "state",
            "clusters": {"c": {"session_root": str(home / "sessions"), "image_dir": str(home / "images")}},
        }
    )
    cluster = Cluster(name="c", settings=settings.clusters["c"], scheduler=slurm, files=MountedFiles(user="ann"))
    gateway = Gateway(
        settings=settings,
        instance="0a1b2c3d",
        db=database,
        clusters={"c": cluster},
        catalogue=Catalogue([recipes]),
        agents=agents,
        vault=Keyring(settings.state_dir / "secrets.keys"),
        client_ca="-----BEGIN CERTIFICATE-----\n",
        clock=time,
        moment=time.moment,
    )
    server = Server(name="only", host="here", pid=1, started=1, place="", clusters=("c",), seconds=LONG)
    terms = await database.write(leases.beat, server, [], [Lease(cluster="c")], [])
    hold = Hold(Grip("c", server.name, terms["c"]), LONG, moment())
    yield World(gateway, slurm, agents, time, ClusterLoop(gateway, cluster, hold), hold, home)
    await cluster.close()


@pytest.fixture
async def ask(world: World) -> Callable[..., Awaitable[Session]]:
    """Asks for a session of a recipe whose image is there."""
    image = Image(cluster="c", name="base", sha256="b" * 64, path="/i/base.sif", size=1, built_at=world.time())
    await world.gateway.db.write(images.save, image)

    async def create(recipe: str = "count", key: str | None = None, **request: Any) -> Session:
        wanted = SessionRequest(recipe=recipe, **request)
        return (await sessions.create(world.gateway, world.caller, wanted, idempotency_key=key))[0]

    return create
