"""Orphans in the database: what the sweep asks, and what it has done."""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, and_, func, insert, select, update

from gateway.model.orphan import Orphan, OrphanKind, Owner
from gateway.store.schema import jobs, orphans, sessions


def users(connection: Connection, cluster: str) -> list[str]:
    """The Unix users that have, or had, sessions on the cluster."""
    query = select(sessions.c.unix_user).where(sessions.c.cluster == cluster).distinct()
    return sorted(connection.execute(query).scalars())


def owners(connection: Connection, names: Collection[str]) -> dict[str, Owner]:
    """The sessions that these job names belong to."""
    query = (
        select(jobs.c.name, jobs.c.job_id, sessions.c.id, sessions.c.ended)
        .join(sessions, jobs.c.session_id == sessions.c.id)
        .where(jobs.c.name.in_(names))
    )
    return {row.name: Owner(session_id=row.id, ended=row.ended, job_id=row.job_id) for row in connection.execute(query)}


def add(connection: Connection, found: Sequence[Orphan]) -> None:
    """Count them, each once."""
    for orphan in found:
        same = and_(
            orphans.c.cluster == orphan.cluster,
            orphans.c.job_id == orphan.job_id,
            orphans.c.name == orphan.name,
            orphans.c.kind == orphan.kind.value,
        )
        if connection.execute(select(orphans.c.job_id).where(same)).first() is None:
            connection.execute(insert(orphans), orphan.model_dump() | {"kind": orphan.kind.value})


def adopt(connection: Connection, session_id: str, before: int, after: int) -> bool:
    """The session has the job `after` where it had `before`; False if it has another one by now."""
    mine = and_(jobs.c.session_id == session_id, jobs.c.job_id == before)
    if connection.execute(update(jobs).where(mine).values(job_id=after)).rowcount == 0:
        return False
    bump = update(sessions).where(sessions.c.id == session_id).values(version=sessions.c.version + 1)
    connection.execute(bump)
    return True


def counts(connection: Connection) -> dict[tuple[str, OrphanKind], int]:
    """How many there were, by cluster and kind."""
    keys = orphans.c.cluster, orphans.c.kind
    rows = connection.execute(select(*keys, func.count().label("number")).group_by(*keys))
    return {(row.cluster, OrphanKind(row.kind)): row.number for row in rows}
