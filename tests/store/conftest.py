"""A real SQLite database for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.store.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'sluice.db'}")
    opened.open()
    yield opened
    opened.close()
