"""The schema's revisions, by Alembic: a numbered file each. Up to the newest when a service starts, down by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config

from gateway.store import engine
from gateway.store.database import Database

FOLDER = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> None:
    """Bring the schema up to the newest revision."""
    with _alembic(database) as config:
        command.upgrade(config, "head")


def downgrade(database: Database, revision: str) -> None:
    """Take the schema down to an older revision; `base` is before the first."""
    with _alembic(database) as config:
        command.downgrade(config, revision)


@contextmanager
def _alembic(database: Database) -> Iterator[Config]:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    with database.writing.begin() as connection:
        engine.take_time(connection)
        config.attributes["connection"] = connection
        yield config
