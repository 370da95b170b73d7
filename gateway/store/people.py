"""The tables of users, identities, projects and tokens; they stand beside those of gateway.store.schema."""

from sqlalchemy import JSON, Boolean, Column, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint

from gateway.store.schema import UtcDateTime, metadata

users = Table(
    "users",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("title", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("operator", Boolean, nullable=False),
    Column("groups", JSON, nullable=False),
    Column("project", ForeignKey("projects.name")),
    Column("note", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime),
)

identities = Table(
    "identities",
    metadata,
    Column("issuer", String(255), primary_key=True),
    Column("subject", String(255), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
)

unix_accounts = Table(
    "unix_accounts",
    metadata,
    Column("cluster", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("uid", Integer),
    UniqueConstraint("user_id", "cluster"),
)

projects = Table(
    "projects",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("title", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

shares = Table(
    "project_shares",
    metadata,
    Column("project", ForeignKey("projects.name", ondelete="CASCADE"), primary_key=True),
    Column("cluster", String(63), primary_key=True),
    Column("account", String(63), nullable=False),
    Column("qos", JSON, nullable=False),
    Column("partitions", JSON, nullable=False),
)

members = Table(
    "project_members",
    metadata,
    Column("project", ForeignKey("projects.name", ondelete="CASCADE"), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("source", String(16), nullable=False),
    Index(None, "user_id"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("digest", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("project", String(63)),
    Column("session", String(26)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(63), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

browsers = Table(
    "browser_sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("issuer", String(255), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("sid", String(255)),
    Column("id_token", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Index(None, "issuer", "subject"),
)

sign_ins = Table(
    "sign_ins",
    metadata,
    Column("state", String(64), primary_key=True),
    Column("nonce", String(64), nullable=False),
    Column("verifier", String(128), nullable=False),
    Column("browser", String(64), nullable=False),
    Column("to", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

revisions = Table(
    "revisions",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("number", Integer, nullable=False),
)

#: Named secrets, sealed: a user's own (`project` unset) or a project's (`user_id` unset).
secrets = Table(
    "secrets",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE")),
    Column("project", ForeignKey("projects.name", ondelete="CASCADE")),
    Column("sealed", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", String(63), nullable=False),
    UniqueConstraint("user_id", "name"),
    UniqueConstraint("project", "name"),
)

#: Named directories on clusters: a user's own (`project` unset) or a project's (`user_id` unset).
volumes = Table(
    "volumes",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE")),
    Column("project", ForeignKey("projects.name", ondelete="CASCADE")),
    Column("cluster", String(63), nullable=False),
    Column("volume_class", String(63), nullable=False),
    Column("path", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(63), nullable=False),
    UniqueConstraint("user_id", "name"),
    UniqueConstraint("project", "name"),
)

#: The values that live sessions were given, sealed; gone when they end.
session_secrets = Table(
    "session_secrets",
    metadata,
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("sealed", Text, nullable=False),
)
