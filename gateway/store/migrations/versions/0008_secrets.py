"""Named secrets of users and projects, and the values that live sessions were given; all of them sealed."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("user_id", sa.String(length=26)),
        sa.Column("project", sa.String(length=63)),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_by", sa.String(length=63), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_secrets_user_id_users", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name="fk_secrets_project_projects", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_secrets"),
        sa.UniqueConstraint("user_id", "name", name="uq_secrets_user_id_name"),
        sa.UniqueConstraint("project", "name", name="uq_secrets_project_name"),
    )
    op.create_table(
        "session_secrets",
        sa.Column("session_id", sa.String(length=26), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_session_secrets_session_id_sessions", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("session_id", name="pk_session_secrets"),
    )


def downgrade() -> None:
    op.drop_table("session_secrets")
    op.drop_table("secrets")
