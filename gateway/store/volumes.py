"""Volumes of users and projects. Reads start from the caller (`visible_to`)."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, delete, false, insert, or_, select

from gateway.errors import VolumeNotFound
from gateway.model.principal import Principal
from gateway.model.volume import KeptVolume, VolumeView
from gateway.store.people import volumes


def visible_to(caller: Principal) -> Select[Any]:
    """The volumes that the caller may know of: their own, those of their projects; administrators all projects'.

    A token that is held to a project reaches the project's alone, one that is held to a session none.
    """
    query = select(volumes)
    if caller.session is not None or not caller.id:
        return query.where(false())
    if caller.project is not None:
        known = caller.role_in(caller.project) is not None
        return query.where(volumes.c.project == caller.project if known else false())
    own = (volumes.c.user_id == caller.id) & volumes.c.project.is_(None)
    if caller.admin:
        return query.where(or_(own, volumes.c.project.is_not(None)))
    return query.where(or_(own, volumes.c.project.in_(sorted(caller.projects))))


def find(connection: Connection, caller: Principal) -> list[KeptVolume]:
    """The caller's own first, then by project and name."""
    query = visible_to(caller).order_by(volumes.c.project.is_not(None), volumes.c.project, volumes.c.name)
    return [KeptVolume.model_validate(row, from_attributes=True) for row in connection.execute(query)]


def get(connection: Connection, caller: Principal, name: str, project: str | None) -> KeptVolume:
    """VolumeNotFound also for those that the caller may not know of."""
    row = connection.execute(visible_to(caller).where(volumes.c.name == name, _of(project))).one_or_none()
    if row is None:
        raise unknown(name, project)
    return KeptVolume.model_validate(row, from_attributes=True)


def unknown(name: str, project: str | None) -> VolumeNotFound:
    whose = f"project {project} has no volume {name!r}" if project is not None else f"you have no volume {name!r}"
    return VolumeNotFound(whose, hint="`sluice volume list` shows those that you may know of.")


def usable(
    connection: Connection, caller: Principal, project: str, cluster: str, names: Collection[str]
) -> dict[str, KeptVolume]:
    """By name, for a session of the caller's in the project: their own before the project's."""
    query = visible_to(caller).where(
        volumes.c.name.in_(sorted(names)),
        volumes.c.cluster == cluster,
        or_(volumes.c.project.is_(None), volumes.c.project == project),
    )
    rows = connection.execute(query.order_by(volumes.c.project.is_(None))).all()
    return {row.name: KeptVolume.model_validate(row, from_attributes=True) for row in rows}


def put(connection: Connection, volume: KeptVolume) -> VolumeView:
    """Keep a volume, in the place of one of that name, if there is one."""
    whose = volumes.c.user_id == volume.user_id if volume.project is None else _of(volume.project)
    connection.execute(delete(volumes).where((volumes.c.name == volume.name) & whose))
    connection.execute(insert(volumes).values(**volume.model_dump()))
    return VolumeView.model_validate(volume, from_attributes=True)


def remove(connection: Connection, volume_id: str) -> None:
    connection.execute(delete(volumes).where(volumes.c.id == volume_id))


def remove_all(connection: Connection, user_id: str) -> None:
    """All of a user's own names; what is in the directories stays."""
    connection.execute(delete(volumes).where(volumes.c.user_id == user_id, volumes.c.project.is_(None)))


def _of(project: str | None) -> ColumnElement[bool]:
    return volumes.c.project.is_(None) if project is None else volumes.c.project == project
