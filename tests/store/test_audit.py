"""The audit log: a chain without gaps whoever writes it, which the database lets nobody change."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import DBAPIError

from gateway.errors import AuditBroken, Conflict
from gateway.model.audit import FIRST, AuditLine, AuditQuery, digest, walk
from gateway.model.principal import Principal
from gateway.store import audit, schema
from gateway.store.database import Database
from tests.postgresql import Server

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OLA = Principal(name="ola", operator=True)


def line(number: int = 0, who: str = "ann", **values: object) -> AuditLine:
    base = AuditLine(at=NOW + timedelta(seconds=number), who=who, action="session.create", object_kind="session")
    return base.model_copy(
        update={"object": f"s{number}", "details": {"name": "na\u00efve \u2603", "n": [1, None]}, **values}
    )


async def exported(database: Database) -> list[dict[str, object]]:
    rows = await database.read(audit.after, OLA, AuditQuery(limit=10_000), 0)
    return [json.loads(row.model_dump_json()) for row in rows]


async def add(database: Database, *lines: AuditLine) -> None:
    await database.write(audit.append, lines)


async def test_rows_are_chained_and_can_be_checked_by_anybody(database: Database) -> None:
    await add(database, line(0), line(1))
    await add(database, line(2))
    rows = await exported(database)
    assert [(row["id"], row["object"]) for row in rows] == [(1, "s0"), (2, "s1"), (3, "s2")]
    assert [row["previous"] for row in rows] == [FIRST, rows[0]["hash"], rows[1]["hash"]]
    assert all(row["hash"] == digest(row) for row in rows)
    head = await database.read(audit.head)
    assert walk(rows, expect=str(rows[1]["hash"])) == head
    assert head.id == 3


@pytest.mark.parametrize("statement", ["UPDATE audit SET who = 'ben' WHERE id = 1", "DELETE FROM audit"])
async def test_the_database_refuses_to_change_and_to_take_rows(database: Database, statement: str) -> None:
    await add(database, line(0), line(1))
    with pytest.raises(DBAPIError, match="never changed"), database.engine.begin() as connection:
        connection.execute(text(statement))
    assert len(await exported(database)) == 2


async def test_the_database_refuses_the_ways_around(database: Database) -> None:
    await add(database, line(0))
    sqlite = database.engine.dialect.name == "sqlite"
    row = (await database.read(audit.after, OLA, AuditQuery(), 0))[0]
    again = insert(schema.audit).values({**row.model_dump(), "who": "ben"}).prefix_with("OR REPLACE")
    with pytest.raises(DBAPIError, match="never changed"), database.engine.begin() as connection:
        connection.execute(again if sqlite else text("TRUNCATE audit"))
    assert [row["who"] for row in await exported(database)] == ["ann"]


async def test_a_write_that_is_undone_leaves_neither_row_nor_gap(database: Database) -> None:
    def fails(connection: Connection) -> None:
        audit.append(connection, [line(7)])
        raise Conflict("no")

    results = await asyncio.gather(
        add(database, line(0)), database.write(fails), add(database, line(1)), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), Conflict, type(None)]
    rows = await exported(database)
    assert [(row["id"], row["object"]) for row in rows] == [(1, "s0"), (2, "s1")]
    assert walk(rows).id == 2


async def test_several_servers_write_one_chain(postgresql: Server) -> None:
    url = postgresql.fresh()
    servers = [Database(url) for _ in range(3)]
    for server in servers:
        server.open()
    try:
        await asyncio.gather(
            *(add(server, line(n, who=f"w{i}")) for n in range(40) for i, server in enumerate(servers))
        )
        rows = await exported(servers[0])
    finally:
        for server in servers:
            server.close()
    assert walk(rows).id == 120
    assert {row["who"] for row in rows} == {"w0", "w1", "w2"}


@pytest.mark.parametrize(
    ("harm", "broken"),
    [
        (lambda rows: rows[1].update(who="ben"), 2),
        (lambda rows: rows[1].update(who="ben", hash=digest({**rows[1], "who": "ben"})), 3),
        (lambda rows: rows.pop(1), 2),
        (lambda rows: rows.pop(0), 1),
        (lambda rows: rows.insert(1, dict(rows[0])), 2),
        (lambda rows: rows[2].update(details={}), 3),
        (lambda rows: rows[2].update(more="x"), 3),
    ],
)
async def test_the_first_broken_row_is_named(database: Database, harm: object, broken: int) -> None:
    await add(database, *(line(number) for number in range(4)))
    rows = await exported(database)
    assert callable(harm)
    harm(rows)
    with pytest.raises(AuditBroken) as told:
        walk(rows)
    assert told.value.details["row"] == broken


async def test_rows_that_were_taken_from_the_end_are_missed_by_who_kept_the_head(database: Database) -> None:
    await add(database, *(line(number) for number in range(4)))
    rows = await exported(database)
    kept = str(rows[3]["hash"])
    with pytest.raises(AuditBroken, match="taken from the end"):
        walk(rows[:3], expect=kept)
    await add(database, line(9))
    assert walk(await exported(database), expect=kept).id == 5


async def test_everybody_sees_their_own_doing_and_operators_all(database: Database) -> None:
    await add(
        database,
        line(0, who="ann", project="alpha", session="S1"),
        line(1, who="ben"),
        line(2, who="ann", kind="service"),
        line(3, who="system", kind="system", session="S1"),
        line(4, who="ann", decision="deny"),
    )

    async def seen(caller: Principal, **query: object) -> list[str]:
        rows, _ = await database.read(audit.find, caller, AuditQuery.model_validate(query))
        told = [row.id for row in await database.read(audit.after, caller, AuditQuery.model_validate(query), 0)]
        assert told == [row.id for row in rows][::-1]
        return [row.object for row in rows]

    ann = Principal(name="ann")
    assert await seen(ann) == ["s4", "s0"]
    assert await seen(Principal(name="ann", project="alpha")) == ["s0"]
    assert await seen(Principal(name="ann", session="S2")) == []
    assert await seen(Principal(name="system")) == []
    assert await seen(OLA) == ["s4", "s3", "s2", "s1", "s0"]
    assert await seen(OLA, decision="deny") == ["s4"]
    assert await seen(OLA, who="ben") == ["s1"]
    assert await seen(OLA, session="S1") == ["s3", "s0"]
    assert await seen(OLA, object="s2", action="session.create") == ["s2"]
    assert await seen(OLA, since=NOW + timedelta(seconds=1), until=NOW + timedelta(seconds=3)) == ["s2", "s1"]


async def test_pages_go_on_where_they_ended(database: Database) -> None:
    await add(database, *(line(number) for number in range(5)))
    found, cursor = [], None
    while True:
        rows, cursor = await database.read(audit.find, OLA, AuditQuery(limit=2, cursor=cursor))
        found += [row.id for row in rows]
        if cursor is None:
            break
    assert found == [5, 4, 3, 2, 1]
