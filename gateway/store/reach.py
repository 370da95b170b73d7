"""How far a token reaches that is held to a session or a project, as conditions on rows."""

from typing import Any

from sqlalchemy import ColumnElement

from gateway.model.principal import Principal


def held_to(caller: Principal, session: ColumnElement[Any], project: ColumnElement[Any]) -> list[ColumnElement[bool]]:
    """What must hold for rows of which these columns say whose session and project they are; nothing for other tokens.

    Every read of such rows starts with it: a token that leaves its session or project even once is not held to it.
    """
    found: list[ColumnElement[bool]] = []
    if caller.session is not None:
        found.append(session == caller.session)
    if caller.project is not None:
        found.append(project == caller.project)
    return found
