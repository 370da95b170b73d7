"""Jobs that are not to begin before a time, and when Slurm means to end those that run."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("begin_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for name in ("ends_at", "begin_at"):
        op.drop_column("jobs", name)
