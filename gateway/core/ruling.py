"""Somebody, a project or a token, as policies see them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection

from gateway.model.policy import Ruled
from gateway.model.principal import Role
from gateway.model.project import Project
from gateway.model.token import Token, TokenView
from gateway.model.user import User
from gateway.store import projects, users

_DAY = 86400


def said(request: BaseModel) -> tuple[str, ...]:
    """What a request says of somebody or something: the names of all that is not left away."""
    return tuple(sorted(request.model_dump(exclude_none=True)))


def user(connection: Connection, about: User, changes: Iterable[str] = (), *, new: bool = False) -> Ruled:
    """A user, of whom this would be said."""
    return Ruled(
        kind="Person",
        id="" if new else about.id,
        project=about.project,
        labels=_labels(connection, about.project),
        attributes={
            "id": "" if new else about.id,
            **about.model_dump(include={"name", "kind", "state", "admin", "operator"}),
        },
        references={} if about.project is None else {"project": ("Project", about.project)},
        context={"changes": tuple(changes)},
    )


def project(about: Project, changes: Iterable[str] = ()) -> Ruled:
    """A project, of which this would be said."""
    return _project(about, {"changes": tuple(changes)})


def place(about: Project, member: str, role: Role | None = None) -> Ruled:
    """A project, for somebody who would get this role in it, or none any more."""
    return _project(about, {"member": member, "role": role.value if role is not None else ""})


def token(connection: Connection, about: Token | TokenView, owner: str) -> Ruled:
    """A token of the user of this name."""
    known = users.id_of(connection, owner)
    person = users.person(connection, known) if known is not None else None
    keeper = person.user.project if person is not None and person.user.kind == "service" else None
    days = math.ceil((about.expires_at - about.created_at).total_seconds() / _DAY)
    references = {"owner": ("User", owner)}
    return Ruled(
        kind="Token",
        id=about.id,
        project=keeper,
        labels=_labels(connection, keeper),
        attributes={
            **about.model_dump(include={"id", "name", "project", "session"}),
            "scopes": tuple(sorted(about.scopes)),
            "days": days,
        },
        references=references | ({"keeper": ("Project", keeper)} if keeper is not None else {}),
    )


def _project(about: Project, context: Mapping[str, Any]) -> Ruled:
    return Ruled(kind="Project", id=about.name, project=about.name, labels=about.labels, context=context)


def _labels(connection: Connection, name: str | None) -> Mapping[str, str]:
    return projects.labels(connection, name) if name is not None else {}
