"""A real database for each test, once of each kind."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from gateway.model.job import Job, job_name
from gateway.model.plan import PinnedImage, Plan
from gateway.model.session import Session
from gateway.store.database import Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Build = Callable[..., Session]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def build() -> Build:
    def make(number: int, owner: str = "ann", **changes: object) -> Session:
        session_id = f"01JD{number:022d}"
        plan = Plan(
            recipe="echo",
            version="1",
            digest="0" * 64,
            kind="batch",
            image=PinnedImage(name="base", path="/base.sif", sha256="b" * 64),
            command=("true",),
        )
        session = Session(
            id=session_id,
            name=f"echo-{number}",
            owner=owner,
            project="default",
            cluster="c",
            unix_user=owner,
            plan=plan,
            created_at=NOW,
            updated_at=NOW,
            job=Job(session_id=session_id, attempt=1, name=job_name(session_id, 1)),
        )
        return session.model_copy(update=changes)

    return make
