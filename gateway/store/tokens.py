"""Sluice's tokens: a digest of each, never the token. Reads start from the caller (`visible_to`)."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, or_, select, update

from gateway.errors import TokenNotFound
from gateway.model.principal import Principal, Role
from gateway.model.token import Token, TokenView
from gateway.store.people import tokens, users
from gateway.store.revision import bump


def visible_to(caller: Principal) -> Select[Any]:
    """The tokens that the caller may know of: their own, those of service accounts they manage; administrators all."""
    query = select(tokens, users.c.name.label("user")).join(users, users.c.id == tokens.c.user_id)
    if caller.admin:
        return query
    managed = [name for name in caller.projects if caller.has_role(name, Role.MANAGER)]
    return query.where(or_(tokens.c.user_id == caller.id, users.c.project.in_(sorted(managed))))


def find(connection: Connection, caller: Principal, *, all_: bool = False) -> list[TokenView]:
    """Newest first; without `all_` those that were revoked are left out."""
    query = visible_to(caller)
    if not all_:
        query = query.where(tokens.c.revoked_at.is_(None))
    return [_view(row) for row in connection.execute(query.order_by(tokens.c.id.desc()))]


def get(connection: Connection, caller: Principal, ref: str) -> TokenView:
    """By id, or by the name of one of the caller's own that is not revoked. TokenNotFound."""
    named = (tokens.c.name == ref) & (tokens.c.user_id == caller.id) & tokens.c.revoked_at.is_(None)
    query = visible_to(caller).where(or_(tokens.c.id == ref.upper(), named))
    row = connection.execute(query.order_by(tokens.c.id.desc()).limit(1)).one_or_none()
    if row is None:
        raise TokenNotFound(f"there is no token {ref!r}", hint="`sluice token list` shows yours.")
    return _view(row)


def add(connection: Connection, token: Token, digest: str) -> None:
    values = token.model_dump() | {"scopes": sorted(token.scopes)}
    connection.execute(insert(tokens).values(**values, digest=digest))


def kept(connection: Connection, token_id: str) -> tuple[Token, str] | None:
    """A token and the digest of its secret: what tells whether somebody holds it."""
    row = connection.execute(select(tokens).where(tokens.c.id == token_id)).one_or_none()
    return (Token.model_validate(row, from_attributes=True), row.digest) if row is not None else None


def used(connection: Connection, token_id: str, now: datetime) -> None:
    """Keep when a token was used last. Nobody's rights change by it."""
    connection.execute(update(tokens).where(tokens.c.id == token_id).values(last_used_at=now))


def revoke(connection: Connection, token_id: str, now: datetime) -> None:
    """No error if it was revoked before."""
    live = tokens.c.revoked_at.is_(None)
    connection.execute(update(tokens).where(tokens.c.id == token_id, live).values(revoked_at=now))
    bump(connection)


def revoke_all(connection: Connection, user_id: str, now: datetime) -> int:
    """All of a user's that are live; how many."""
    live = tokens.c.revoked_at.is_(None)
    gone = connection.execute(update(tokens).where(tokens.c.user_id == user_id, live).values(revoked_at=now))
    bump(connection)
    return gone.rowcount


def _view(row: Row[Any]) -> TokenView:
    return TokenView.model_validate({**row._mapping, "scopes": sorted(row.scopes)})  # noqa: SLF001 - documented name
