"""A number that rises with every change of who may do what: caches of callers are good as long as it stands still."""

from sqlalchemy import Connection, select, update

from gateway.store.people import revisions

_PEOPLE = revisions.c.name == "people"
_CURRENT = select(revisions.c.number).where(_PEOPLE)
_BUMP = update(revisions).where(_PEOPLE).values(number=revisions.c.number + 1)


def current(connection: Connection) -> int:
    return int(connection.execute(_CURRENT).scalar_one())


def bump(connection: Connection) -> None:
    """Let every replica forget whom it knows; in the same transaction as the change."""
    connection.execute(_BUMP)
