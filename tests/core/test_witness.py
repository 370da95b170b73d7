"""What was refused is told, and floods nothing."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.core.witness import STRANGERS, Tally, Witness
from gateway.model.audit import AuditLine, AuditQuery
from gateway.model.principal import Principal
from gateway.store import audit
from gateway.store.database import Database

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


async def until_rows(database: Database, count: int) -> None:
    async with asyncio.timeout(20):
        while (await database.read(audit.head)).id < count:  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.02)
