"""Secrets, sealed: the named ones of users and projects, and what live sessions were given.

Nothing here can open a value. Reads start from the caller (`visible_to`).
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, delete, false, insert, or_, select, update

from gateway.errors import SecretNotFound
from gateway.model.principal import Principal, Role
from gateway.model.secret import KeptSecret, SecretView
from gateway.store.people import secrets, session_secrets

Place = tuple[str, str, str]
"""Of a sealed value: `secret` or `session`, the row's id, and what stands there."""


def visible_to(caller: Principal) -> Select[Any]:
    """The secrets that the caller may use: their own, those of projects that they are at least members of.

    A token that is held to a project reaches the project's alone, one that is held to a session none.
    """
    query = select(secrets)
    if caller.session is not None or not caller.id:
        return query.where(false())
    if caller.project is not None:
        held = caller.has_role(caller.project, Role.MEMBER)
        return query.where(secrets.c.project == caller.project if held else false())
    own = (secrets.c.user_id == caller.id) & secrets.c.project.is_(None)
    if caller.admin:
        return query.where(or_(own, secrets.c.project.is_not(None)))
    mine = [name for name in caller.projects if caller.has_role(name, Role.MEMBER)]
    return query.where(or_(own, secrets.c.project.in_(sorted(mine))))


def find(connection: Connection, caller: Principal) -> list[KeptSecret]:
    """The caller's own first, then by project and name."""
    query = visible_to(caller).order_by(secrets.c.project.is_not(None), secrets.c.project, secrets.c.name)
    return [KeptSecret.model_validate(row, from_attributes=True) for row in connection.execute(query)]


def get(connection: Connection, caller: Principal, name: str, project: str | None) -> KeptSecret:
    """SecretNotFound also for those that the caller may not know of."""
    row = connection.execute(visible_to(caller).where(secrets.c.name == name, _of(project))).one_or_none()
    if row is None:
        raise unknown(name, project)
    return KeptSecret.model_validate(row, from_attributes=True)


def unknown(name: str, project: str | None) -> SecretNotFound:
    whose = f"project {project} has no secret {name!r}" if project is not None else f"you have no secret {name!r}"
    return SecretNotFound(whose, hint="`sluice secret list` shows those that you may use.")


def usable(connection: Connection, caller: Principal, project: str, names: Collection[str]) -> dict[str, KeptSecret]:
    """By name, for a session of the caller's in the project: their own before the project's."""
    query = visible_to(caller).where(
        secrets.c.name.in_(sorted(names)), or_(secrets.c.project.is_(None), secrets.c.project == project)
    )
    rows = connection.execute(query.order_by(secrets.c.project.is_(None))).all()
    return {row.name: KeptSecret.model_validate(row, from_attributes=True) for row in rows}


def put(connection: Connection, caller: Principal, secret: KeptSecret) -> SecretView:
    """Keep a value, in the place of one of that name, if there is one: then its row is another."""
    whose = secrets.c.user_id == secret.user_id if secret.project is None else _of(secret.project)
    same = (secrets.c.name == secret.name) & whose
    first = connection.execute(visible_to(caller).where(same)).one_or_none()
    connection.execute(delete(secrets).where(same))
    since = first.created_at if first is not None else secret.created_at
    kept = secret.model_copy(update={"created_at": since})
    connection.execute(insert(secrets).values(**kept.model_dump()))
    return SecretView.model_validate(kept, from_attributes=True)


def remove(connection: Connection, secret_id: str) -> None:
    connection.execute(delete(secrets).where(secrets.c.id == secret_id))


def remove_all(connection: Connection, user_id: str) -> None:
    """All of a user's own."""
    connection.execute(delete(secrets).where(secrets.c.user_id == user_id, secrets.c.project.is_(None)))


def give(connection: Connection, session_id: str, sealed: str) -> None:
    """What a new session is given, until it ends."""
    connection.execute(insert(session_secrets).values(session_id=session_id, sealed=sealed))


def given(connection: Connection, session_id: str) -> str | None:
    """What a session was given."""
    query = select(session_secrets.c.sealed).where(session_secrets.c.session_id == session_id)
    return connection.execute(query).scalar_one_or_none()


def take_back(connection: Connection, session_id: str) -> None:
    """The session ended: nobody needs them again."""
    connection.execute(delete(session_secrets).where(session_secrets.c.session_id == session_id))


def sealed_otherwise(connection: Connection, key: str, limit: int) -> Sequence[Place]:
    """Some values that another key than this one sealed."""
    other = f"1.{key}.%"
    found: list[Place] = []
    for kind, table in _TABLES.items():
        query = select(_key(table), table.c.sealed).where(~table.c.sealed.like(other)).limit(limit - len(found))
        found += [(kind, row[0], row[1]) for row in connection.execute(query)]
    return found


def seal_again(connection: Connection, places: Collection[tuple[Place, str]]) -> None:
    """Put what another key sealed in the place of what stands there; what was changed meanwhile stays as it is."""
    for (kind, row_id, before), after in places:
        table = _TABLES[kind]
        same = (_key(table) == row_id) & (table.c.sealed == before)
        connection.execute(update(table).where(same).values(sealed=after))


def keys_in_use(connection: Connection, keys: Collection[str]) -> set[str]:
    """Those of the keys that something is still sealed with."""
    return {
        key
        for key in keys
        for table in _TABLES.values()
        if connection.execute(select(_key(table)).where(table.c.sealed.like(f"1.{key}.%")).limit(1)).first()
    }


_TABLES = {"secret": secrets, "session": session_secrets}


def _key(table: Table) -> ColumnElement[str]:
    return table.c.id if table is secrets else table.c.session_id


def _of(project: str | None) -> ColumnElement[bool]:
    return secrets.c.project.is_(None) if project is None else secrets.c.project == project
