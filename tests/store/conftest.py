"""A real database for each test, once of each kind."""

from collections.abc import Iterator

import pytest

from gateway.store.database import Database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    opened.open()
    yield opened
    opened.close()
