"""Reading with 100,000 sessions in the database: lists, the status of sessions by 500 clients, events as they happen.

Beside each the raw thing in the same run: the same rows asked of the database alone, an empty web server that sends
an answer of the same size, and the database's own commit.
"""

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from sqlalchemy import insert, text
from ulid import ULID

from benchmarks.environment import Environment, until_ready
from benchmarks.readers import Job, Seen, read
from benchmarks.report import Row, percentile
from gateway.model.job import Job as SlurmJob
from gateway.model.job import JobState, job_name
from gateway.model.plan import PinnedImage, Plan
from gateway.model.session import Phase, Session
from gateway.store import sessions as store
from gateway.store.database import Database
from gateway.store.schema import jobs, labels, sessions
from tests.postgresql import serving

SESSIONS, LIVE, AT_ONCE = 100_000, 200, 2000
CLIENTS, SECONDS = 500, 8.0
LISTERS, LIST_SECONDS, PAGE = (1, 4), 5.0, 50
SHARES = (0.5, 0.99)
FILTERS = ["recipe=recipe-3", "phase=failed", "label=team=c", "label=run=77", "name=bench-4711", "ended=true"]
CHANGES = 100
BARE = """
import sys, uvicorn, uvloop, socket
body = sys.stdin.buffer.read()
async def app(scope, receive, send):
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", lifespan="off", log_config=None, backlog=4096)
"""


def measure(env: Environment) -> Iterator[Row]:
    """On SQLite and on PostgreSQL: the database is filled once, then a server of its own reads from it."""
    with tempfile.TemporaryDirectory(prefix="sluice-reads-") as folder:
        yield from _on("SQLite", env, Path(folder), f"sqlite:///{folder}/sluice.db")
    with serving() as postgresql, tempfile.TemporaryDirectory(prefix="sluice-reads-") as folder:
        postgresql.run("CREATE DATABASE reads TEMPLATE template0")
        yield from _on("PostgreSQL", env, Path(folder), postgresql.url("reads"))


def _on(kind: str, env: Environment, folder: Path, url: str) -> Iterator[Row]:
    database = Database(url)
    database.open()
    print(f"filling {kind} with {SESSIONS} sessions ...", flush=True)
    ids, live = fill(database)
    try:
        with _server(env, folder, url) as server:
            yield from _lists(kind, database, server, ids)
            yield from _statuses(kind, server, ids)
            yield from asyncio.run(_events(kind, database, server, live))
    finally:
        database.close()


def fill(database: Database) -> tuple[list[str], list[Session]]:
    """Ended sessions of twenty owners and ten recipes, and a few live ones on a cluster that nobody works for."""
    plan = Plan(
        recipe="bench",
        version="1",
        digest="0" * 64,
        kind="batch",
        image=PinnedImage(name="base", path="/images/base.sif", sha256="b" * 64),
        parameters={"steps": 1000, "data": "/data/set"},
        command=("python3", "train.py"),
        labels={"team": "a", "run": "0"},
    )
    began = datetime.now(UTC) - timedelta(days=365)
    ended = _session(plan, 0, began, Phase.SUCCEEDED)
    row, job = store.values_of(ended), ended.job.model_dump()
    ids: list[str] = []
    for first in range(0, SESSIONS, AT_ONCE):
        rows, held, named = [], [], []
        for number in range(first, min(first + AT_ONCE, SESSIONS)):
            at = began + timedelta(seconds=number * 300)
            session_id = str(ULID.from_datetime(at))
            tagged = {"team": "abcdefgh"[number % 8], "run": str(number // 100)}
            own = {"id": session_id, "name": f"bench-{number}", "owner": f"user{number % 20}", "created_at": at}
            own |= {"recipe": f"recipe-{number % 10}", "phase": "failed" if number % 10 == 0 else "succeeded"}
            rows.append({**row, **own, "plan": {**row["plan"], "recipe": own["recipe"], "labels": tagged}})
            held.append({**job, "session_id": session_id, "name": job_name(session_id, 1), "job_id": number + 1})
            named += [{"session_id": session_id, "name": name, "value": value} for name, value in tagged.items()]
            ids.append(session_id)
        with database.writing.begin() as connection:
            for table, values in ((sessions, rows), (jobs, held), (labels, named)):
                connection.execute(insert(table), values)
    now = datetime.now(UTC)
    live = [_session(plan, SESSIONS + number, now, Phase.REQUESTED) for number in range(LIVE)]
    with database.writing.begin() as connection:
        for session in live:
            store.add(connection, session)
        connection.execute(text("ANALYZE"))
    return ids, live


def _session(plan: Plan, number: int, at: datetime, phase: Phase) -> Session:
    session_id = str(ULID.from_datetime(at))
    return Session(
        id=session_id,
        name=f"bench-{number}",
        owner="admin",
        project="default",
        cluster="nobody-works-for-it",
        unix_user="alice",
        plan=plan,
        phase=phase,
        created_at=at,
        updated_at=at,
        ended_at=at if phase.ended else None,
        job=SlurmJob(
            session_id=session_id,
            attempt=1,
            name=job_name(session_id, 1),
            state=JobState.COMPLETED if phase.ended else None,
        ),
    )


@dataclass(frozen=True)
class Server:
    """A server that has this database to itself."""

    address: str
    headers: dict[str, str]
    pid: int

    def asked(self, paths: Sequence[str], clients: int, seconds: float) -> Seen:
        """What so many readers see."""
        seen = read(Job(self.address, paths, self.headers, clients, seconds, self.pid))
        assert seen.errors == 0, f"{seen.errors} readers were refused"
        return seen


@contextmanager
def _server(env: Environment, folder: Path, url: str) -> Iterator[Server]:
    """`sluice serve server` on this database."""
    config = folder / "sluice.toml"
    state = folder / "state"
    config.write_text(
        f"state_dir = {json.dumps(str(state))}\ndatabase_url = {json.dumps(url)}\n{env.cluster.settings_toml()}"
    )
    port = _free_port()
    command = [sys.executable, "-m", "gateway.cli.main", "serve", "server", "--port", str(port)]
    environment = {**os.environ, "SLUICE_CONFIG": str(config)}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        until_ready(address, process, folder / "server.log")
        token = (state / "token").read_text().strip()
        yield Server(address, {"Authorization": f"Bearer {token}"}, process.pid)
    finally:
        process.terminate()
        process.wait()


def _lists(kind: str, database: Database, server: Server, ids: list[str]) -> Iterator[Row]:
    """Pages of 50 anywhere in the list, by every filter, beside the same rows read by SQL alone."""
    filters = ["", *(f"{word}&" for word in FILTERS)]
    cursors = random.sample(ids, 400)
    paths = [f"/api/v1/sessions?{word}limit={PAGE}&cursor={cursor}" for cursor in cursors for word in filters]
    raw = [_plain_list(database, cursor) for cursor in cursors]
    for clients in LISTERS:
        seen = server.asked(paths, clients, LIST_SECONDS)
        note = f"pages of {PAGE} anywhere among {SESSIONS}, seven filters; raw: the rows by SQL"
        what = f"list of sessions, {clients} at once, {kind}"
        yield from _percentiles(what, seen, raw, note)
        yield Row(f"{what}, CPU", "ms", 1000 * seen.server, note=f"of one list; the clients': {1000 * seen.own:.2g} ms")


def _plain_list(database: Database, cursor: str) -> float:
    began = time.perf_counter()
    query = "SELECT * FROM sessions WHERE id < :cursor ORDER BY id DESC LIMIT 50"
    with database.reading.connect() as connection:
        connection.execute(text(query), {"cursor": cursor}).all()
    return time.perf_counter() - began


def _statuses(kind: str, server: Server, ids: list[str]) -> Iterator[Row]:
    """500 clients ask for sessions among a thousand, beside a web server that has nothing to do."""
    paths = [f"/api/v1/sessions/{one}" for one in random.sample(ids, 1000)]
    ours = server.asked(paths, CLIENTS, SECONDS)
    size = len(httpx.get(f"{server.address}{paths[0]}", headers=server.headers).content)
    with _bare(b"x" * size) as bare:
        raw = bare.asked(paths, CLIENTS, SECONDS / 2)
    note = f"{CLIENTS} clients, 1000 sessions; raw: an empty ASGI app under uvicorn"
    yield Row(f"status reads, {kind}", "1/s", ours.rate, raw.rate, note=note)
    yield from _percentiles(f"status read, {kind}", ours, raw.seconds, note)
    told = f"of one read; the clients': {1000 * ours.own:.2g} ms"
    yield Row(f"status read, {kind}, CPU", "ms", 1000 * ours.server, 1000 * raw.server, note=told)


@contextmanager
def _bare(body: bytes) -> Iterator[Server]:
    port = _free_port()
    process = subprocess.Popen([sys.executable, "-c", BARE, str(port)], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(body)
    process.stdin.close()
    try:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield Server(f"http://127.0.0.1:{port}", {}, process.pid)
    finally:
        process.terminate()
        process.wait()


async def _events(kind: str, database: Database, server: Server, live: list[Session]) -> list[Row]:
    """From a change that is committed to a reader of the server's event stream; by this server, and by another."""
    loop = asyncio.get_running_loop()
    arrived: dict[str, asyncio.Future[float]] = {session.id: loop.create_future() for session in live}
    here: list[float] = []
    there: list[float] = []
    commits: list[float] = []
    async with httpx.AsyncClient(base_url=f"{server.address}/api/v1", headers=server.headers, timeout=30) as client:
        begun = asyncio.Event()
        following = asyncio.create_task(_follow(client, arrived, begun))
        await begun.wait()
        for number in range(CHANGES):
            session = live[number]
            if number % 2:
                began = time.perf_counter()
                await client.post(f"/sessions/{session.id}/stop")
                here.append(await _until_there(arrived, session.id) - began)
            else:
                began = time.perf_counter()
                asked = session.model_copy(update={"stop_requested_at": datetime.now(UTC)})
                await database.write(store.save, session, asked, datetime.now(UTC))
                committed = time.perf_counter()
                commits.append(committed - began)
                there.append(max(0.0, await _until_there(arrived, session.id) - committed))
            await asyncio.sleep(number % 7 / 100)  # not in step with anything
        following.cancel()
    rows = []
    note = f"{CHANGES // 2} changes; raw: the commit itself"
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        raw = 1000 * percentile(commits, share)
        for what, seen in (("request for a stop", here), ("commit by another server", there)):
            told = f"{what} to its event, {kind}, {name}"
            rows.append(Row(told, "ms", 1000 * percentile(seen, share), raw, note=note))
    return rows


async def _follow(
    client: httpx.AsyncClient, arrived: Mapping[str, asyncio.Future[float]], begun: asyncio.Event
) -> None:
    async with client.stream("GET", "/events", timeout=None) as response:
        begun.set()
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                told = arrived[json.loads(line.removeprefix("data: "))["session"]]
                if not told.done():
                    told.set_result(time.perf_counter())


async def _until_there(arrived: Mapping[str, asyncio.Future[float]], session_id: str) -> float:
    async with asyncio.timeout(20):
        return await arrived[session_id]


def _percentiles(what: str, seen: Seen, raw: Sequence[float], note: str = "") -> Iterator[Row]:
    for share in SHARES:
        ours = 1000 * percentile(seen.seconds, share)
        yield Row(
            f"{what}, p{share * 100:g}",
            "ms",
            ours,
            1000 * percentile(raw, share),
            note=note if share == SHARES[0] else "",
        )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
