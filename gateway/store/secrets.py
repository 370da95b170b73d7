"""Secrets, sealed: the named ones of users and projects, and what live sessions were given.

Nothing here can open a value. The named ones are read and written by gateway.store.named.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Connection, Table, delete, insert, select, update

from gateway.errors import SecretNotFound
from gateway.model.principal import Role
from gateway.model.secret import KeptSecret
from gateway.store.named import Shelf
from gateway.store.people import secrets, session_secrets

#: Members of a project may know of its secrets: who knows of one may use it.
SHELF = Shelf(secrets, KeptSecret, Role.MEMBER, SecretNotFound)

Place = tuple[str, str, str]
"""Of a sealed value: `secret` or `session`, the row's id, and what stands there."""


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
