"""Lists that stay fast with many sessions: an index for every filter, labels in a table of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FILTERS = ("name", "recipe", "cluster", "phase")
AT_ONCE = 1000
sessions = sa.table("sessions", sa.column("id", sa.String), sa.column("plan", sa.JSON))


def upgrade() -> None:
    labels = op.create_table(
        "labels",
        sa.Column("session_id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_labels_session_id_sessions", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("session_id", "name", name="pk_labels"),
    )
    _copy(labels)
    op.create_index("ix_labels_name_value_session_id", "labels", ["name", "value", "session_id"])
    for column in FILTERS:
        op.create_index(f"ix_sessions_{column}_id", "sessions", [column, "id"])
    op.create_index(
        "ix_sessions_live_id",
        "sessions",
        ["id"],
        sqlite_where=sa.text("ended = 0"),
        postgresql_where=sa.text("NOT ended"),
    )


def _copy(labels: sa.Table) -> None:
    """The labels of the sessions that are there, some at a time."""
    connection, last = op.get_bind(), ""
    while True:
        some = sa.select(sessions.c.id, sessions.c.plan).where(sessions.c.id > last).order_by(sessions.c.id)
        rows = connection.execute(some.limit(AT_ONCE)).all()
        found = [
            {"session_id": row.id, "name": name, "value": value}
            for row in rows
            for name, value in row.plan.get("labels", {}).items()
        ]
        if found:
            connection.execute(sa.insert(labels), found)
        if len(rows) < AT_ONCE:
            return
        last = rows[-1].id


def downgrade() -> None:
    op.drop_index("ix_sessions_live_id", "sessions")
    for column in FILTERS:
        op.drop_index(f"ix_sessions_{column}_id", "sessions")
    op.drop_table("labels")
