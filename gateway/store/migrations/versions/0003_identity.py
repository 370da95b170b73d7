"""Users, identities, projects, tokens and sign-ins; sessions are found by their project."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    projects = op.create_table(
        "projects",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_projects"),
    )
    now = datetime.now(UTC)
    op.bulk_insert(projects, [{"name": "default", "title": "", "state": "active", "labels": {}, "created_at": now}])
    users = op.create_table(
        "users",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("operator", sa.Boolean(), nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("project", sa.String(length=63), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name="fk_users_project_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("name", name="uq_users_name"),
    )
    administrator = {"id": "local", "name": "admin", "kind": "local", "state": "active", "title": "", "email": ""}
    rights = {"admin": True, "operator": False, "groups": [], "note": "", "created_at": now}
    op.bulk_insert(users, [administrator | rights])
    op.create_table(
        "identities",
        sa.Column("issuer", sa.String(length=255), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        _user(),
        _users_key("identities"),
        sa.PrimaryKeyConstraint("issuer", "subject", name="pk_identities"),
    )
    op.create_index("ix_identities_user_id", "identities", ["user_id"])
    op.create_table(
        "unix_accounts",
        sa.Column("cluster", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        _user(),
        sa.Column("uid", sa.Integer(), nullable=True),
        _users_key("unix_accounts"),
        sa.PrimaryKeyConstraint("cluster", "name", name="pk_unix_accounts"),
        sa.UniqueConstraint("user_id", "cluster", name="uq_unix_accounts_user_id_cluster"),
    )
    op.create_table(
        "project_shares",
        sa.Column("project", sa.String(length=63), nullable=False),
        sa.Column("cluster", sa.String(length=63), nullable=False),
        sa.Column("account", sa.String(length=63), nullable=False),
        sa.Column("qos", sa.JSON(), nullable=False),
        sa.Column("partitions", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["projects.name"], name="fk_project_shares_project_projects", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project", "cluster", name="pk_project_shares"),
    )
    members = op.create_table(
        "project_members",
        sa.Column("project", sa.String(length=63), nullable=False),
        _user(),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["projects.name"], name="fk_project_members_project_projects", ondelete="CASCADE"
        ),
        _users_key("project_members"),
        sa.PrimaryKeyConstraint("project", "user_id", name="pk_project_members"),
    )
    op.bulk_insert(members, [{"project": "default", "user_id": "local", "role": "manager", "source": "manual"}])
    op.create_index("ix_project_members_user_id", "project_members", ["user_id"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        _user(),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("project", sa.String(length=63), nullable=True),
        sa.Column("session", sa.String(length=26), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=63), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        _users_key("tokens"),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
    )
    op.create_index("ix_tokens_user_id", "tokens", ["user_id"])
    op.create_table(
        "browser_sessions",
        sa.Column("digest", sa.String(length=64), nullable=False),
        _user(),
        sa.Column("issuer", sa.String(length=255), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("sid", sa.String(length=255), nullable=True),
        sa.Column("id_token", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        _users_key("browser_sessions"),
        sa.PrimaryKeyConstraint("digest", name="pk_browser_sessions"),
    )
    op.create_index("ix_browser_sessions_user_id", "browser_sessions", ["user_id"])
    op.create_index("ix_browser_sessions_issuer_subject", "browser_sessions", ["issuer", "subject"])
    op.create_table(
        "sign_ins",
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("verifier", sa.String(length=128), nullable=False),
        sa.Column("browser", sa.String(length=64), nullable=False),
        sa.Column("to", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("state", name="pk_sign_ins"),
    )
    revisions = op.create_table(
        "revisions",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_revisions"),
    )
    op.bulk_insert(revisions, [{"name": "people", "number": 1}])
    op.create_index("ix_sessions_project_id", "sessions", ["project", "id"])


def _user() -> sa.Column[str]:
    return sa.Column("user_id", sa.String(length=26), nullable=False)


def _users_key(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=f"fk_{table}_user_id_users", ondelete="CASCADE")


def downgrade() -> None:
    """Sessions keep the names of their projects."""
    op.drop_index("ix_sessions_project_id", "sessions")
    for table in ("revisions", "sign_ins", "browser_sessions", "tokens", "project_members", "project_shares"):
        op.drop_table(table)
    for table in ("unix_accounts", "identities", "users", "projects"):
        op.drop_table(table)
