"""What people and projects keep by name. Reads start from the caller (`visible_to`)."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, Table, delete, false, insert, or_, select

from gateway.errors import NotFound
from gateway.model.named import Named
from gateway.model.principal import Principal, Role

K = TypeVar("K", bound=Named)


@dataclass(frozen=True)
class Shelf(Generic[K]):
    """Where one kind of it is kept. `least`: the role from which on people of a project may know of what it keeps."""

    table: Table
    row: type[K]
    least: Role
    absent: type[NotFound]

    @property
    def word(self) -> str:
        """What people call one of it."""
        return self.row.kind.lower()

    def unknown(self, name: str, project: str | None) -> NotFound:
        """There is none of that name, or nobody may know."""
        who = f"project {project} has" if project is not None else "you have"
        return self.absent(
            f"{who} no {self.word} {name!r}", hint=f"`sluice {self.word} list` shows those that you may know of."
        )


def visible_to(shelf: Shelf[K], caller: Principal) -> Select[Any]:
    """What the caller may know of: their own, and their projects' from a role on; administrators all projects'.

    A token that is held to a project reaches the project's alone, one that is held to a session none.
    """
    table, least = shelf.table, shelf.least
    query = select(table)
    if caller.session is not None or not caller.id:
        return query.where(false())
    if caller.project is not None:
        known = caller.has_role(caller.project, least)
        return query.where(table.c.project == caller.project if known else false())
    own = (table.c.user_id == caller.id) & table.c.project.is_(None)
    if caller.admin:
        return query.where(or_(own, table.c.project.is_not(None)))
    mine = [name for name in caller.projects if caller.has_role(name, least)]
    return query.where(or_(own, table.c.project.in_(sorted(mine))))


def find(connection: Connection, shelf: Shelf[K], caller: Principal) -> list[K]:
    """The caller's own first, then by project and name."""
    table = shelf.table
    query = visible_to(shelf, caller).order_by(table.c.project.is_not(None), table.c.project, table.c.name)
    return [shelf.row.model_validate(row, from_attributes=True) for row in connection.execute(query)]


def get(connection: Connection, shelf: Shelf[K], caller: Principal, name: str, project: str | None) -> K:
    """NotFound also for those that the caller may not know of."""
    query = visible_to(shelf, caller).where(shelf.table.c.name == name, _of(shelf, project))
    row = connection.execute(query).one_or_none()
    if row is None:
        raise shelf.unknown(name, project)
    return shelf.row.model_validate(row, from_attributes=True)


def usable(
    connection: Connection,
    shelf: Shelf[K],
    caller: Principal,
    project: str,
    names: Collection[str],
    cluster: str | None = None,
) -> dict[str, K]:
    """By name, for a session of the caller's in the project: their own before the project's.

    `cluster`: those alone that lie there.
    """
    table = shelf.table
    theirs = or_(table.c.project.is_(None), table.c.project == project)
    query = visible_to(shelf, caller).where(table.c.name.in_(sorted(names)), theirs)
    if cluster is not None:
        query = query.where(table.c.cluster == cluster)
    rows = connection.execute(query.order_by(table.c.project.is_(None))).all()
    return {row.name: shelf.row.model_validate(row, from_attributes=True) for row in rows}


def put(connection: Connection, shelf: Shelf[K], caller: Principal, kept: K) -> K:
    """Keep it, in the place of one of that name, if there is one: then its row is another."""
    table = shelf.table
    whose = table.c.user_id == kept.user_id if kept.project is None else _of(shelf, kept.project)
    same = (table.c.name == kept.name) & whose
    before = connection.execute(visible_to(shelf, caller).where(same)).one_or_none()
    if before is not None:
        kept = kept.after(shelf.row.model_validate(before, from_attributes=True))
    connection.execute(delete(table).where(same))
    connection.execute(insert(table).values(**kept.model_dump()))
    return kept


def remove(connection: Connection, shelf: Shelf[K], row_id: str) -> None:
    connection.execute(delete(shelf.table).where(shelf.table.c.id == row_id))


def remove_all(connection: Connection, shelf: Shelf[K], user_id: str) -> None:
    """All of a user's own."""
    connection.execute(delete(shelf.table).where(shelf.table.c.user_id == user_id, shelf.table.c.project.is_(None)))


def _of(shelf: Shelf[K], project: str | None) -> ColumnElement[bool]:
    return shelf.table.c.project.is_(None) if project is None else shelf.table.c.project == project
