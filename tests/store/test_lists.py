"""Lists stay fast with many sessions: every filter has its index, on both engines, for users and administrators."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from sqlalchemy import Connection, insert, text

from gateway.model.principal import Principal, Role
from gateway.model.session import Phase, Session
from gateway.store import sessions
from gateway.store.database import Database
from gateway.store.engine import is_sqlite
from gateway.store.schema import jobs
from gateway.store.schema import sessions as table
from gateway.store.sessions import SessionQuery

ANN, ROOT = Principal(name="ann"), Principal(name="root", admin=True)
MEMBER = Principal(name="ann", projects={"default": Role.MEMBER, "other": Role.VIEWER})
MANY = 3000
Build = Callable[..., Session]
QUERIES = {
    "all": SessionQuery(),
    "cursor": SessionQuery(cursor="01JD" + "0" * 19 + "900"),
    "name": SessionQuery(name="echo-77"),
    "recipe": SessionQuery(recipe="rare"),
    "cluster": SessionQuery(cluster="elsewhere"),
    "phase": SessionQuery(phase=Phase.READY),
    "live": SessionQuery(ended=False),
    "live of a recipe": SessionQuery(ended=False, recipe="rare"),
    "label": SessionQuery(labels={"team": "x"}),
    "labels": SessionQuery(labels={"team": "x", "run": "7"}, cursor="01JD" + "0" * 19 + "900"),
}


@pytest.fixture
async def full(database: Database, build: Build) -> Database:
    """Many ended sessions of several owners, and a few live ones."""

    def fill(connection: Connection) -> None:
        rows, held, named = [], [], []
        for number in range(MANY):
            session = build(number, owner=("ann", "ben", "cem")[number % 3], phase=Phase.SUCCEEDED)
            row = sessions.values_of(session) | {"idempotency_key": None, "idempotency_digest": None}
            row |= {"recipe": "rare" if number % 500 == 0 else "echo"}
            row |= {"cluster": "elsewhere" if number % 700 == 0 else "c"}
            rows.append(row)
            held.append(session.job.model_dump())
            if number % 100 == 0:
                named += [{"session_id": session.id, "name": n, "value": v} for n, v in (("team", "x"), ("run", "7"))]
        connection.execute(insert(table), rows)
        connection.execute(insert(jobs), held)
        connection.execute(sessions._ADD_LABELS, named)

    await database.write(fill)
    for number in range(MANY, MANY + 5):
        await database.write(sessions.add, build(number, owner="ann", phase=Phase.READY))
    if not is_sqlite(database.url):  # PostgreSQL takes the measure of its tables by itself, SQLite never does
        await database.write(lambda connection: connection.execute(text("ANALYZE")) and None)
    return database


def plan_of(connection: Connection, query: Any) -> str:
    """How the engine would find the rows, in its own words."""
    word = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    compiled = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    rows = connection.exec_driver_sql(f"{word} {compiled}".replace("%", "%%")).all()
    return "\n".join(str(row[-1]) for row in rows)


async def test_no_list_reads_the_whole_table(full: Database) -> None:
    for caller, name in product((ANN, ROOT, MEMBER), QUERIES):
        found = await full.read(plan_of, sessions.listing(caller, QUERIES[name]))
        assert "Seq Scan on sessions" not in found, f"{name}: {found}"
        for line in found.splitlines():
            if line.startswith("SCAN sessions") and "ix_sessions_live_id" not in line:
                assert "USING" in line, f"{name}: {found}"
                assert name in {"all", "cursor"}, f"{name} finds little, and reads everything: {found}"
        if not name.startswith(("live", "name")):  # few rows by their nature: to sort them costs nothing
            assert "TEMP B-TREE" not in found or caller is MEMBER, f"{name}: {found}"


async def test_a_list_finds_what_looking_at_all_of_them_finds(full: Database) -> None:
    for caller, name in product((ANN, ROOT, MEMBER), QUERIES):
        query = QUERIES[name].model_copy(update={"limit": 400})
        everything: list[tuple[str, int]] = []
        cursor = query.cursor
        while True:
            some, cursor = await full.read(sessions.page, caller, query.model_copy(update={"cursor": cursor}))
            everything += some
            if cursor is None:
                break
        wanted = [f"01JD{number:022d}" for number in range(MANY + 5) if belongs(number, caller, query)]
        assert everything == [(one, 1) for one in wanted[::-1]], name


def belongs(number: int, caller: Principal, query: SessionQuery) -> bool:
    """Whether the session is one that the list should show, by how it was made."""
    live = number >= MANY
    owner = "ann" if live else ("ann", "ben", "cem")[number % 3]
    labels = {"team": "x", "run": "7"} if number % 100 == 0 and not live else {}
    return (
        (caller.admin or "default" in caller.projects or owner == caller.name)
        and (query.cursor is None or f"01JD{number:022d}" < query.cursor)
        and query.name in {None, f"echo-{number}"}
        and (query.recipe is None or (number % 500 == 0 and not live))
        and (query.cluster is None or (number % 700 == 0 and not live))
        and (query.phase is None or live)
        and (query.ended is None or query.ended is not live)
        and query.labels.items() <= labels.items()
    )


async def test_many_refs_are_one_question(full: Database, build: Build) -> None:
    mine, other = build(0).id, build(1).id
    refs = {mine, mine.lower(), other, "echo-3002", "echo-1", "nowhere"}
    assert await full.read(sessions.current, ANN, refs) == {
        mine: (mine, 1),
        mine.lower(): (mine, 1),
        "echo-3002": (build(3002).id, 1),
    }
    assert (await full.read(sessions.current, ROOT, {other}))[other] == (other, 1)
