"""The sign-in that a session was opened in: what it let in goes with it."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("openings", sa.Column("sign_in", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("openings", "sign_in")
