"""Numbers for monitoring, counted by the database."""

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, func, select

from gateway.store.schema import sessions


class SessionCount(BaseModel):
    """How many sessions of a recipe are in a phase on a cluster."""

    model_config = ConfigDict(frozen=True)

    cluster: str
    recipe: str
    phase: str
    count: int


def by_phase(connection: Connection) -> list[SessionCount]:
    """Every session that is kept, ended ones, too."""
    keys = sessions.c.cluster, sessions.c.recipe, sessions.c.phase
    rows = connection.execute(
        select(*keys, func.count().label("count")).where(sessions.c.parent.is_(None)).group_by(*keys).order_by(*keys)
    )
    return [SessionCount.model_validate(dict(row)) for row in rows.mappings()]
