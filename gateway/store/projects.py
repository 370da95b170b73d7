"""Projects, their accounts on clusters and their members. Reads start from the caller (`visible_to`)."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.errors import Conflict, ProjectNotFound
from gateway.model.principal import Principal
from gateway.model.project import Member, Project, ProjectView, Share
from gateway.store.people import members, projects, shares, users
from gateway.store.revision import bump


def visible_to(caller: Principal) -> Select[Any]:
    """The projects that the caller may know of: their own, as far as the token reaches; operators all."""
    query = select(projects)
    if caller.project is not None:
        query = query.where(projects.c.name == caller.project)
    return query if caller.everywhere else query.where(projects.c.name.in_(sorted(caller.projects)))


def find(connection: Connection, caller: Principal) -> list[ProjectView]:
    """By name."""
    rows = connection.execute(visible_to(caller).order_by(projects.c.name)).all()
    return [_view(connection, caller, row) for row in rows]


def get(connection: Connection, caller: Principal, name: str) -> ProjectView:
    """ProjectNotFound also for those that the caller may not know of."""
    row = connection.execute(visible_to(caller).where(projects.c.name == name)).one_or_none()
    if row is None:
        raise ProjectNotFound(f"there is no project {name!r}", hint="`sluice project list` shows yours.")
    return _view(connection, caller, row)


def known(connection: Connection) -> set[str]:
    """The names of all projects, for the mapping from a provider's groups."""
    return set(connection.execute(select(projects.c.name)).scalars())


def labels(connection: Connection, name: str) -> dict[str, str]:
    """A project's labels, for policies about a session that was found for the caller."""
    found: dict[str, str] | None = connection.execute(select(projects.c.labels).where(projects.c.name == name)).scalar()
    return found or {}


def add(connection: Connection, project: Project) -> None:
    """Conflict if the name is taken."""
    values = project.model_dump(include={"name", "title", "state", "labels", "created_at"})
    try:
        with connection.begin_nested():
            connection.execute(insert(projects).values(**values))
    except IntegrityError as error:
        raise Conflict(f"there is a project {project.name!r} already") from error
    _set_shares(connection, project)


def save(connection: Connection, project: Project) -> None:
    """Write what can change of a project."""
    values = project.model_dump(include={"title", "state", "labels"})
    connection.execute(update(projects).where(projects.c.name == project.name).values(**values))
    _set_shares(connection, project)
    bump(connection)


def set_member(connection: Connection, project: str, user_id: str, member: Member) -> None:
    """Give somebody a place in a project, or another role."""
    remove_member(connection, project, user_id)
    values = {"project": project, "user_id": user_id, "role": member.role.value, "source": member.source}
    connection.execute(insert(members).values(**values))
    bump(connection)


def remove_member(connection: Connection, project: str, user_id: str) -> bool:
    """Whether there was one."""
    gone = connection.execute(delete(members).where(members.c.project == project, members.c.user_id == user_id))
    bump(connection)
    return gone.rowcount > 0


def _set_shares(connection: Connection, project: Project) -> None:
    connection.execute(delete(shares).where(shares.c.project == project.name))
    for share in project.shares:
        values = share.model_dump() | {"qos": list(share.qos), "partitions": list(share.partitions)}
        connection.execute(insert(shares).values(project=project.name, **values))


def _view(connection: Connection, caller: Principal, row: Row[Any]) -> ProjectView:
    query = select(users.c.name.label("user"), members.c.role, members.c.source)
    here = query.join(members, members.c.user_id == users.c.id).where(members.c.project == row.name)
    found = connection.execute(here.order_by(users.c.name))
    return ProjectView(
        **_project(row),
        shares=tuple(_shares(connection, row.name)),
        members=tuple(Member.model_validate(member, from_attributes=True) for member in found),
        role=caller.role_in(row.name),
    )


def _shares(connection: Connection, project: str) -> Iterable[Share]:
    query = select(shares.c.cluster, shares.c.account, shares.c.qos, shares.c.partitions)
    for row in connection.execute(query.where(shares.c.project == project).order_by(shares.c.cluster)):
        yield Share.model_validate(row, from_attributes=True)


def _project(row: Row[Any]) -> dict[str, Any]:
    return {
        "name": row.name, "title": row.title, "state": row.state, "labels": row.labels, "created_at": row.created_at
    }  # fmt: skip
