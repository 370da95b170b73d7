"""Several jobs of one session: rows of sessions that have a parent, and how busy the data plane is with each."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("parent", sa.String(length=26), nullable=True))
    op.add_column("sessions", sa.Column("drain_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sessions", sa.Column("asleep_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sessions", sa.Column("keep_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sessions", sa.Column("stop_reason", sa.Text(), nullable=False, server_default=""))
    few = sa.text("parent IS NOT NULL")
    op.create_index("ix_sessions_parent", "sessions", ["parent"], sqlite_where=few, postgresql_where=few)
    if op.get_bind().dialect.name == "postgresql":  # of a column that it has not looked at it supposes the rarest
        op.execute("ANALYZE sessions")
    op.create_table(
        "loads",
        sa.Column("session_id", sa.String(length=26), nullable=False),
        sa.Column("writer", sa.String(length=63), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("websockets", sa.Integer(), nullable=False),
        sa.Column("last_request_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by_attempt", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_loads_session_id_sessions", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("session_id", "writer", name="pk_loads"),
    )


def downgrade() -> None:
    # what an older gateway could not know of: jobs that it would show as sessions
    op.execute("DELETE FROM sessions WHERE parent IS NOT NULL")
    op.drop_table("loads")
    op.drop_index("ix_sessions_parent", "sessions")
    for name in ("stop_reason", "keep_until", "asleep_at", "drain_at", "parent"):
        op.drop_column("sessions", name)
