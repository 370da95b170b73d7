"""Several servers on one database: each cluster has one of them, and any may be killed or paused at any moment."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.core import processes, sessions
from gateway.core.context import Cluster, Gateway
from gateway.core.leases import Hold, Keeper, moment
from gateway.core.recipes import Catalogue
from gateway.core.reconcile import ClusterLoop, Reconciler
from gateway.errors import LeaseLost
from gateway.identity.keyring import Keyring
from gateway.model.api import SessionRequest
from gateway.model.image import Image
from gateway.model.lease import Lease
from gateway.model.lease import Server as ServerRow
from gateway.model.principal import Principal, Role
from gateway.model.session import Phase
from gateway.network.fake import FakeAgents
from gateway.settings import Settings
from gateway.slurm.fake import FakeSlurm
from gateway.slurm.mounted import MountedFiles
from gateway.store import images
from gateway.store import leases as store
from gateway.store.database import Database
from gateway.store.leases import Grip
from tests.waiting import until_so

CALLER = Principal(name="ann", projects={"default": Role.MEMBER}, unix=dict.fromkeys("abcd", "ann"))
SECONDS = 2.0


@dataclass
class Server:
    """One server of several, in this process."""

    gateway: Gateway
    reconciler: Reconciler
    task: asyncio.Task[None] | None = None

    @property
    def held(self) -> frozenset[str]:
        return self.reconciler.leases.held

    def start(self) -> None:
        self.task = asyncio.create_task(self.reconciler.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
            self.task = None


@dataclass
class Site:
    """A database, one Slurm a cluster, and as many servers as a test starts."""

    make: Callable[[], Awaitable[Server]]
    slurms: dict[str, FakeSlurm]


@pytest.fixture
async def site(tmp_path: Path, recipes: Path, database_url: str) -> AsyncIterator[Site]:
    home = tmp_path / "home"
    home.mkdir()
    slurms = {name: FakeSlurm() for name in ("a", "b", "c", "d")}
    values = {
        "state_dir": tmp_path / "state",
        "clusters": {name: {"session_root": str(home), "image_dir": str(home)} for name in slurms},
        "default_cluster": "a",
        "reconcile": {"poll_seconds": 0.1, "busy_poll_seconds": 0.05, "lease_seconds": SECONDS},
    }
    settings = Settings.model_validate(values)
    async with AsyncExitStack() as stack:

        async def make() -> Server:
            return await stack.enter_async_context(a_server(settings, slurms, recipes, database_url))

        yield Site(make, slurms)


@asynccontextmanager
async def a_server(
    settings: Settings, slurms: dict[str, FakeSlurm], recipes: Path, database_url: str
) -> AsyncIterator[Server]:
    database = Database(database_url)
    database.open()
    clusters = {
        name: Cluster(name=name, settings=settings.clusters[name], scheduler=slurm, files=MountedFiles())
        for name, slurm in slurms.items()
    }
    gateway = Gateway(
        instance="0a1b2c3d",
        settings=settings,
        db=database,
        clusters=clusters,
        catalogue=Catalogue([recipes]),
        agents=FakeAgents(),
        vault=Keyring(settings.state_dir / "secrets.keys"),
        client_ca="-----BEGIN CERTIFICATE-----\n",
        clock=lambda: datetime.now(UTC),
    )
    image = Image(cluster="a", name="base", sha256="b" * 64, path="/b.sif", size=1, built_at=gateway.clock())
    await database.write(images.save, image)
    server = Server(gateway, Reconciler(gateway))
    try:
        yield server
    finally:
        await server.stop()
        await gateway.close()


async def create(server: Server) -> str:
    session, _ = await sessions.create(server.gateway, CALLER, SessionRequest(recipe="count"))
    return session.id


async def test_clusters_spread_over_the_servers_and_come_back(site: Site) -> None:
    first, second = await site.make(), await site.make()
    first.start()
    await until_so(lambda: len(first.held) == 4)
    second.start()
    everything = frozenset(site.slurms)
    await until_so(lambda: (len(first.held), len(second.held)) == (2, 2) and first.held | second.held == everything)

    async def told() -> bool:
        standings = await first.reconciler.leases.standings()
        fresh = all(one.age is not None and one.age < SECONDS for one in standings)
        return fresh and {one.cluster for one in standings if one.here} == first.held

    await until_so(told)
    await second.stop()
    await until_so(lambda: len(first.held) == 4)


async def test_sessions_asked_of_every_server_run_once_each(site: Site) -> None:
    servers = [await site.make() for _ in range(3)]
    for server in servers:
        server.start()
    await until_so(lambda: sum(len(server.held) for server in servers) == 4)
    made = [await create(servers[n % 3]) for n in range(12)]

    async def submitted() -> bool:
        found = [await sessions.get(servers[0].gateway, CALLER, one) for one in made]
        return all(session.phase is Phase.QUEUED for session in found)

    await until_so(submitted)
    assert len(site.slurms["a"].submitted()) == 12


async def test_one_server_asks_slurm_however_many_there_are(site: Site) -> None:
    servers = [await site.make() for _ in range(3)]
    for server in servers:
        server.start()

    def asking() -> list[str]:
        return sorted(name for server in servers for name in server.reconciler.age())

    await until_so(lambda: asking() == ["a", "b", "c", "d"])


async def test_a_server_that_stops_showing_life_is_replaced_and_can_write_nothing(site: Site) -> None:
    """As when a process is paused: it believes for a while, and it is never wrong while it is certain."""
    paused, other = await site.make(), await site.make()
    holds: list[Hold] = []

    async def work(hold: Hold) -> None:
        holds.append(hold)
        await asyncio.Event().wait()

    keeper = Keeper(paused.gateway, work)
    await keeper.beat()
    await until_so(lambda: len(holds) == 4)
    held = next(hold for hold in holds if hold.grip.cluster == "a")

    async def certain() -> bool:
        await keeper.beat()
        return held.certain

    await until_so(certain)
    other.start()

    def taken() -> bool:
        assert not (held.certain and "a" in other.held), "two servers are certain of one lease"
        return "a" in other.held

    await until_so(taken)
    with pytest.raises(LeaseLost):
        await paused.gateway.db.write(store.fenced, held.grip, lambda _: None)
    waiting = asyncio.create_task(held.sure())
    await keeper.beat()
    assert not await waiting
    assert keeper.held == frozenset()
    await until_so(lambda: "a" in other.held)


async def test_a_pause_that_nobody_used_goes_on_under_the_same_term(site: Site) -> None:
    server = await site.make()
    holds: list[Hold] = []

    async def work(hold: Hold) -> None:
        holds.append(hold)
        await asyncio.Event().wait()

    keeper = Keeper(server.gateway, work)
    await keeper.beat()
    await until_so(lambda: len(holds) == 4)
    hold = holds[0]
    await until_so(lambda: not hold.certain)
    waiting = asyncio.create_task(hold.sure())

    async def renewed() -> bool:
        await keeper.beat()
        return waiting.done()

    await until_so(renewed)
    assert waiting.result()
    assert {one.grip.term for one in holds} == {1}


async def test_a_loop_without_its_lease_asks_submits_and_writes_nothing(site: Site) -> None:
    server = await site.make()
    row = ServerRow(name="old", host="h", pid=1, started=1, place="", clusters=("a",), seconds=SECONDS)
    terms = await server.gateway.db.write(store.beat, row, [], [Lease(cluster="a")], [])
    hold = Hold(Grip("a", "old", terms["a"]), 3600, moment())
    loop = ClusterLoop(server.gateway, server.gateway.clusters["a"], hold)
    session = await create(server)
    seen = (await server.gateway.db.read(store.look)).leases[0]
    await server.gateway.db.write(store.beat, row.model_copy(update={"name": "new"}), [], [seen], [])
    with pytest.raises(LeaseLost):
        await loop.turn()
    assert site.slurms["a"].submitted() == []
    assert (await sessions.get(server.gateway, CALLER, session)).job.intent_at is None
    await loop.run()
    assert hold.lost


async def test_what_the_database_refuses_for_a_while_stops_nobody_for_good(site: Site) -> None:
    """A full disk, say: here the table of the leases is away."""
    server = await site.make()
    server.start()
    await until_so(lambda: "a" in server.held)
    await server.gateway.db.write(lambda connection: connection.exec_driver_sql("ALTER TABLE leases RENAME TO away"))
    await until_so(lambda: server.held == frozenset())
    await server.gateway.db.write(lambda connection: connection.exec_driver_sql("ALTER TABLE away RENAME TO leases"))
    session = await create(server)
    await until_so(lambda: len(site.slurms["a"].submitted()) == 1)
    assert (await sessions.get(server.gateway, CALLER, session)).job.intent_at is not None


async def test_of_two_that_want_a_free_lease_one_gets_it(site: Site) -> None:
    server = await site.make()
    rows = [
        ServerRow(name=name, host="h", pid=1, started=1, place="", clusters=("a",), seconds=SECONDS)
        for name in ("one", "two")
    ]
    take = [Lease(cluster="a")]
    terms = await asyncio.gather(*(server.gateway.db.write(store.beat, row, [], take, []) for row in rows))
    assert sorted(map(dict, terms), key=len) == [{}, {"a": 1}]
    (lease,) = (await server.gateway.db.read(store.look)).leases
    again = await asyncio.gather(*(server.gateway.db.write(store.beat, row, [], [lease], []) for row in rows))
    assert sorted(map(dict, again), key=len) == [{}, {"a": 2}]


async def test_a_server_killed_on_this_machine_is_replaced_at_once(site: Site) -> None:
    server = await site.make()
    program = await asyncio.create_subprocess_exec("true")
    await program.wait()
    row = ServerRow(
        name="dead",
        host="h",
        pid=program.pid,
        started=1,
        place=processes.place(),
        clusters=("a", "b", "c", "d"),
        seconds=3600,
    )
    await server.gateway.db.write(store.beat, row, [], [Lease(cluster=name) for name in "abcd"], [])
    server.start()
    await until_so(lambda: len(server.held) == 4)
    await server.reconciler.leases.beat()
    assert [one.pid for one in (await server.gateway.db.read(store.look)).servers] == [os.getpid()]
