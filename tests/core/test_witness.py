"""What was refused is told, and floods nothing."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from gateway.core.witness import STRANGERS, Tally, Witness
from gateway.model.audit import AuditLine, AuditQuery
from gateway.model.principal import Principal
from gateway.store import audit
from gateway.store.database import Database
from tests.waiting import until_so

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def line(seconds: float = 0, **values: Any) -> AuditLine:
    base = {"at": NOW + timedelta(seconds=seconds), "who": "ann", "action": "session.stop", "decision": "deny"}
    return AuditLine.model_validate({**base, "outcome": "forbidden", **values})


def test_the_same_refusal_again_is_counted() -> None:
    tally = Tally()
    assert tally.add(line(0)) is not None
    assert [tally.add(line(second)) for second in (1, 2, 3)] == [None] * 3
    assert tally.add(line(3, object="other")) is not None
    assert tally.due(NOW + timedelta(seconds=59)) == []
    told = tally.due(NOW + timedelta(seconds=64))
    assert [(row.details["count"], row.object) for row in told] == [(3, "")]
    assert tally.due(NOW + timedelta(seconds=200)) == []
    assert tally.add(line(201)) is not None, "it was quiet for a minute: this is told at once"


def test_strangers_from_everywhere_make_few_rows() -> None:
    tally = Tally()
    many = [line(0, who="", kind="nobody", action="authenticate") for _ in range(5000)]
    told = [tally.add(one, f"10.0.{number // 250}.{number % 250}") for number, one in enumerate(many)]
    rows = [row for row in told if row is not None]
    assert len(rows) == STRANGERS + 1
    summed = tally.due()
    assert len(rows) + sum(int(str(row.details["count"])) for row in summed) == 5000


async def test_what_is_told_is_written_at_once_and_the_rest_at_the_end(database: Database) -> None:
    witness = Witness(database, lambda: NOW)
    run = asyncio.create_task(witness.run())
    for second in range(10):
        witness.tell(line(second))
    await until_rows(database, 1)
    run.cancel()
    await asyncio.wait({run})
    rows, _ = await database.read(audit.find, Principal(name="ola", operator=True), AuditQuery())
    assert [row.details.get("count") for row in rows] == [9, None]


async def test_a_row_that_is_being_written_at_the_end_is_written_once(database: Database) -> None:
    writing, behind, go_on = threading.Event(), threading.Event(), threading.Event()

    def slow(_: Connection, begun: threading.Event) -> None:
        begun.set()
        assert go_on.wait(120)
        go_on.clear()

    witness = Witness(database, lambda: NOW)
    first = asyncio.create_task(database.write(slow, writing))
    await until_so(writing.is_set)
    second = asyncio.create_task(database.write(slow, behind))
    await asyncio.sleep(0)
    run = asyncio.create_task(witness.run())
    witness.tell(line())
    await until_so(lambda: database._queue.qsize() == 2)
    go_on.set()
    await until_so(behind.is_set)  # the row is in its group: what is asked now cannot take it back
    run.cancel()
    go_on.set()
    await asyncio.wait({run, first, second})
    assert (await database.read(audit.head)).id == 1


async def until_rows(database: Database, count: int) -> None:
    await until_so(lambda: database.read(audit.head), lambda head: head.id >= count, what=f"{count} rows")
