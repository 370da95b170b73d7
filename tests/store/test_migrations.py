"""Migrations keep what is in the tables: up from every revision that ever was, and down again."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, inspect, select, text

from gateway.model.principal import Principal
from gateway.store import events, sessions
from gateway.store.database import Database, migrate, newest
from gateway.store.revisions import FOLDER, downgrade
from gateway.store.schema import metadata
from gateway.store.sessions import SessionQuery

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADMIN = Principal(name="root", admin=True)
IDS = [f"01JD{number:022d}" for number in range(3)]
PLAN = {
    "recipe": "echo",
    "version": "1",
    "digest": "0" * 64,
    "kind": "batch",
    "image": {"name": "base", "path": "/base.sif", "sha256": "b" * 64},
    "command": ["true"],
    "labels": {"team": "x"},
}


def revisions() -> list[str]:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


def test_the_newest_is_known_without_alembic() -> None:
    assert newest() == revisions()[-1]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    opened.open()
    yield opened
    opened.close()


def fill(database: Database) -> None:
    """Rows as the first revision had them: what a later one added gets its default."""
    first = MetaData()
    first.reflect(database.engine)
    values: dict[str, list[dict[str, Any]]] = {"sessions": [], "jobs": [], "events": []}
    for number, session_id in enumerate(IDS):
        session = {
            **dict.fromkeys(("owner", "unix_user"), "ann"),
            "id": session_id,
            "name": f"echo-{number}",
            "project": "default",
            "cluster": "c",
            "recipe": "echo",
            "plan": PLAN,
            "phase": "succeeded",
            "ended": True,
            "reason": "finished",
            "message": "Finished.",
            "conditions": {},
            "version": 3,
            "attempt": 1,
            "created_at": NOW,
            "updated_at": NOW,
            "ended_at": NOW,
        }
        job = {
            "session_id": session_id,
            "attempt": 1,
            "role": "primary",
            "name": f"sluice-{session_id}-1",
            "job_id": 100 + number,
            "state": "COMPLETED",
            "reason": "",
            "nodes": "n1",
            "comment": "",
            "restarts": 0,
        }
        event = {"session_id": session_id, "owner": "ann", "type": "session.phase", "at": NOW, "data": {"a": number}}
        for table, row in (("sessions", session), ("jobs", job), ("events", event)):
            values[table].append(row)
    with database.engine.begin() as connection:
        for table, rows in values.items():
            connection.execute(first.tables[table].insert(), rows)
        clusters = {"name": "c", "backend": "cli", "slurm_version": "26.05", "reachable": True, "message": ""}
        connection.execute(first.tables["clusters"].insert(), [clusters])


@pytest.mark.parametrize("revision", revisions())
async def test_from_every_revision_the_rows_come_up_whole_and_go_down_again(database: Database, revision: str) -> None:
    downgrade(database, revision)
    if revision != revisions()[-1]:
        with database.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) != []
    in_plans_alone = "labels" not in inspect(database.engine).get_table_names()
    fill(database)
    migrate(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        for table in inspect(database.engine).get_table_names():
            connection.execute(select(text("count(*)")).select_from(text(table)))
    for number, session_id in enumerate(IDS):
        session = await database.read(sessions.get, ADMIN, session_id)
        assert (session.name, session.plan.labels, session.job.job_id) == (
            f"echo-{number}",
            {"team": "x"},
            100 + number,
        )
        assert (session.created_at, session.ended_at, session.version) == (NOW, NOW, 3)
    told = await database.read(events.after, ADMIN, 0)
    assert [event.data for event in told] == [{"a": 0}, {"a": 1}, {"a": 2}]
    if in_plans_alone:
        found, _ = await database.read(sessions.find, ADMIN, SessionQuery(labels={"team": "x"}))
        assert [session.id for session in found] == IDS[::-1]
    downgrade(database, revision)
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM sessions")).scalar() == 3
        assert connection.execute(text("SELECT count(*) FROM events")).scalar() == 3
    downgrade(database, "base")
    assert set(inspect(database.engine).get_table_names()) <= {"alembic_version"}
