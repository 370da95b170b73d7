"""The token that a session was opened with: what it let in goes with it."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("openings", sa.Column("token", sa.String(length=26), nullable=True))


def downgrade() -> None:
    op.drop_column("openings", "token")
