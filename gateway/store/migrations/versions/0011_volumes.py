"""Named directories of users and projects on clusters, which sessions mount."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "volumes",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("user_id", sa.String(length=26)),
        sa.Column("project", sa.String(length=63)),
        sa.Column("cluster", sa.String(length=63), nullable=False),
        sa.Column("volume_class", sa.String(length=63), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=63), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_volumes_user_id_users", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name="fk_volumes_project_projects", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_volumes"),
        sa.UniqueConstraint("user_id", "name", name="uq_volumes_user_id_name"),
        sa.UniqueConstraint("project", "name", name="uq_volumes_project_name"),
    )


def downgrade() -> None:
    op.drop_table("volumes")
