"""The tables. Times are UTC; JSON columns hold the dumps of frozen models."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no time zone, so it is taken off on the way in and put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        return value.astimezone(UTC) if value is not None else None

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """Of text (SQLite) or of a moment in whatever zone: a page of a list has hundreds of them."""
        del coltype
        return _of_text if dialect.name == "sqlite" else _in_utc


def _of_text(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value).replace(tzinfo=UTC) if value is not None else None


def _in_utc(value: datetime | None) -> datetime | None:
    return value.astimezone(UTC) if value is not None else None


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("project", String(63), nullable=False),
    Column("cluster", String(63), nullable=False),
    Column("unix_user", String(63), nullable=False),
    Column("recipe", String(63), nullable=False),
    Column("plan", JSON, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("conditions", JSON, nullable=False),
    Column("endpoint", JSON),
    Column("stop_requested_at", UtcDateTime),
    Column("version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("ready_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("attempt", Integer, nullable=False),
    Column("idempotency_key", String(255)),
    Column("idempotency_digest", String(64)),
    # a row with a parent is one more job of that session, and shown to nobody as a session
    Column("parent", String(26)),
    Column("drain_at", UtcDateTime),
    Column("asleep_at", UtcDateTime),
    Column("keep_until", UtcDateTime),
    Column("stop_reason", Text, nullable=False, server_default=""),
    UniqueConstraint("owner", "idempotency_key"),
)
# Lists are read newest first: each filter that may find little has an index that ends with the id.
Index(None, sessions.c.owner, sessions.c.id)
Index(None, sessions.c.project, sessions.c.id)
Index(None, sessions.c.name, sessions.c.id)
Index(None, sessions.c.recipe, sessions.c.id)
Index(None, sessions.c.cluster, sessions.c.id)
Index(None, sessions.c.phase, sessions.c.id)
# Most have no parent, and an index of them all would be taken for one that finds few.
_HAS_PARENT = sessions.c.parent.is_not(None)
Index("ix_sessions_parent", sessions.c.parent, sqlite_where=_HAS_PARENT, postgresql_where=_HAS_PARENT)
Index("ix_sessions_live_id", sessions.c.id, sqlite_where=~sessions.c.ended, postgresql_where=~sessions.c.ended)
Index("ix_sessions_live", sessions.c.cluster, sqlite_where=~sessions.c.ended, postgresql_where=~sessions.c.ended)
Index(
    "uq_sessions_live_name",
    sessions.c.owner,
    sessions.c.name,
    unique=True,
    sqlite_where=~sessions.c.ended,
    postgresql_where=~sessions.c.ended,
)

#: The labels of a session's plan, again, where they can be found by.
labels = Table(
    "labels",
    metadata,
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("value", Text, nullable=False),
    Index(None, "name", "value", "session_id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("role", String(16), nullable=False),
    Column("name", String(63), nullable=False, unique=True),
    Column("intent_at", UtcDateTime),
    Column("missed_at", UtcDateTime),
    Column("misses", Integer, nullable=False, server_default="0"),
    Column("not_before", UtcDateTime),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("job_id", BigInteger, index=True),
    Column("state", String(16)),
    Column("reason", Text, nullable=False),
    Column("nodes", Text, nullable=False),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("comment", Text, nullable=False),
    Column("restarts", Integer, nullable=False),
    Column("position", Integer),
    Column("time_limit", Integer),
    Column("submitted_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("cancelled_at", UtcDateTime),
    Column("begin_at", UtcDateTime),
    Column("ends_at", UtcDateTime),
)

#: What each process of the data plane has to do with a session.
loads = Table(
    "loads",
    metadata,
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("writer", String(63), primary_key=True),
    Column("in_flight", Integer, nullable=False),
    Column("waiting", Integer, nullable=False),
    Column("websockets", Integer, nullable=False),
    Column("last_request_at", UtcDateTime),
    Column("at", UtcDateTime, nullable=False),
    Column("by_attempt", JSON, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("type", String(63), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("data", JSON, nullable=False),
    Index(None, "session_id", "id"),
    Index(None, "owner", "id"),
    sqlite_autoincrement=True,
)

images = Table(
    "images",
    metadata,
    Column("cluster", String(63), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("built_at", UtcDateTime, nullable=False),
)

clusters = Table(
    "clusters",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("backend", String(16), nullable=False),
    Column("slurm_version", String(63), nullable=False),
    Column("reachable", Boolean, nullable=False),
    Column("message", Text, nullable=False),
    Column("polled_at", UtcDateTime),
    Column("poll_seconds", Float),
    Column("inventory", JSON),
)

servers = Table(
    "servers",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("place", Text, nullable=False),
    Column("clusters", JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("beats", BigInteger, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("cluster", String(63), primary_key=True),
    Column("holder", String(63), nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("renewals", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("taken_at", UtcDateTime, nullable=False),
    Column("renewed_at", UtcDateTime, nullable=False),
)

instance = Table("instance", metadata, Column("id", String(32), primary_key=True))

spent_keys = Table(
    "spent_keys",
    metadata,
    Column("owner", String(255), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
)
orphans = Table(
    "orphans",
    metadata,
    Column("cluster", String(63), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("unix_user", String(63), nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

openings = Table(
    "openings",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("token", String(26)),
    Column("sign_in", String(64)),
    Column("expires_at", UtcDateTime, nullable=False),
)

#: What tasks read and write. With a `task`, the content is that part of the task's results.
files = Table(
    "files",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("project", String(63)),
    Column("session", String(26)),
    Column("purpose", String(16), nullable=False),
    Column("name", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("task", ForeignKey("tasks.id", ondelete="CASCADE"), index=True),
    Column("part", String(16)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("touched_at", UtcDateTime, nullable=False, index=True),
    Index(None, "owner", "id"),
)

#: The content of files, in pieces of one size but for the last.
file_chunks = Table(
    "file_chunks",
    metadata,
    Column("file_id", ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("user_id", String(26), nullable=False),
    Column("token", String(26)),
    Column("origin", String(16), nullable=False),
    Column("project", String(63)),
    Column("session", String(26)),
    Column("endpoint", String(63), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("message", Text, nullable=False),
    Column("outcome", String(16)),
    Column("total", Integer),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("concurrency", Integer),
    Column("input_file", String(63), nullable=False),
    Column("output_file", String(63)),
    Column("error_file", String(63)),
    Column("about", JSON, nullable=False),
    Column("faults", JSON, nullable=False),
    Column("window", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("cancelled_at", UtcDateTime),
    Column("finalized_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    # who works on it: a lease, as those of clusters are
    Column("holder", String(63), nullable=False, server_default=""),
    Column("term", BigInteger, nullable=False, server_default="0"),
    Column("renewals", BigInteger, nullable=False, server_default="0"),
    Column("idempotency_key", String(255)),
    Column("idempotency_digest", String(64)),
    UniqueConstraint("owner", "idempotency_key"),
    Index(None, "owner", "id"),
)
Index("ix_tasks_live", tasks.c.id, sqlite_where=~tasks.c.ended, postgresql_where=~tasks.c.ended)

#: One row a line that is done: the key is why no line can have two. `at` and `own_at` are where its result begins
#: among all results, and among those of its kind, once the task has ended.
task_results = Table(
    "task_results",
    metadata,
    Column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("ok", Boolean, nullable=False),
    Column("size", Integer, nullable=False),
    Column("at", BigInteger),
    Column("own_at", BigInteger),
    Column("body", LargeBinary, nullable=False),
    Index(None, "task_id", "at"),
    Index(None, "task_id", "ok", "own_at"),
)

#: Rows are added, and the database itself refuses to change or take any (see the migration).
audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("who", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("origin", String(16), nullable=False),
    Column("token", Text),
    Column("action", Text, nullable=False),
    Column("object_kind", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("project", Text),
    Column("session", Text),
    Column("job_id", BigInteger),
    Column("decision", String(16), nullable=False),
    Column("policy", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("request_id", Text),
    Column("details", JSON, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Index(None, "who", "id"),
    Index(None, "action", "id"),
    Index(None, "object", "id"),
    Index(None, "session", "id"),
    Index(None, "at"),
)
