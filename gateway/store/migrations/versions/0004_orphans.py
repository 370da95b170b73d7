"""Orphans, this gateway's own name, and what a job counts."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("instance", sa.Column("id", sa.String(length=32), primary_key=True))
    op.create_table(
        "orphans",
        sa.Column("cluster", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("unix_user", sa.String(length=63), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("cluster", "job_id", "name", "kind", name="pk_orphans"),
    )
    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("misses", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("time_limit", sa.Integer(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        table.drop_column("time_limit")
        table.drop_column("tries")
        table.drop_column("misses")
    op.drop_table("orphans")
    op.drop_table("instance")
