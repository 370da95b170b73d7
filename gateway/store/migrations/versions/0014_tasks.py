"""Tasks, what they read, and their results line by line."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=26), nullable=False),
        sa.Column("token", sa.String(length=26)),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("project", sa.String(length=63)),
        sa.Column("session", sa.String(length=26)),
        sa.Column("endpoint", sa.String(length=63), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("ended", sa.Boolean(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("outcome", sa.String(length=16)),
        sa.Column("total", sa.Integer()),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("concurrency", sa.Integer()),
        sa.Column("input_file", sa.String(length=63), nullable=False),
        sa.Column("output_file", sa.String(length=63)),
        sa.Column("error_file", sa.String(length=63)),
        sa.Column("about", sa.JSON(), nullable=False),
        sa.Column("faults", sa.JSON(), nullable=False),
        sa.Column("window", sa.String(length=16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("expires_at", moment, nullable=False),
        sa.Column("started_at", moment),
        sa.Column("cancelled_at", moment),
        sa.Column("finalized_at", moment),
        sa.Column("ended_at", moment),
        sa.Column("holder", sa.String(length=63), nullable=False, server_default=""),
        sa.Column("term", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("renewals", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("idempotency_key", sa.String(length=255)),
        sa.Column("idempotency_digest", sa.String(length=64)),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.UniqueConstraint("owner", "idempotency_key", name="uq_tasks_owner_idempotency_key"),
    )
    op.create_index("ix_tasks_owner_id", "tasks", ["owner", "id"])
    live = sa.text("NOT ended")
    op.create_index("ix_tasks_live", "tasks", ["id"], sqlite_where=live, postgresql_where=live)
    op.create_table(
        "files",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("project", sa.String(length=63)),
        sa.Column("session", sa.String(length=26)),
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("task", sa.String(length=63)),
        sa.Column("part", sa.String(length=16)),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("touched_at", moment, nullable=False),
        sa.ForeignKeyConstraint(["task"], ["tasks.id"], name="fk_files_task_tasks", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
    )
    op.create_index("ix_files_owner_id", "files", ["owner", "id"])
    op.create_index("ix_files_task", "files", ["task"])
    op.create_index("ix_files_touched_at", "files", ["touched_at"])
    op.create_table(
        "file_chunks",
        sa.Column("file_id", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name="fk_file_chunks_file_id_files", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("file_id", "number", name="pk_file_chunks"),
    )
    op.create_table(
        "task_results",
        sa.Column("task_id", sa.String(length=63), nullable=False),
        sa.Column("line", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ok", sa.Boolean(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger()),
        sa.Column("own_at", sa.BigInteger()),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_task_results_task_id_tasks", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "line", name="pk_task_results"),
    )
    op.create_index("ix_task_results_task_id_at", "task_results", ["task_id", "at"])
    op.create_index("ix_task_results_task_id_ok_own_at", "task_results", ["task_id", "ok", "own_at"])


def downgrade() -> None:
    for table in ("task_results", "file_chunks", "files", "tasks"):
        op.drop_table(table)
