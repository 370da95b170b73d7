"""Leases and servers in the database: written at every sign of life, each write guarded by what was seen before.

No clock of the database decides anything, so none that is set can: who waits for a lease to lapse watches it by its
own clock. The times in the rows are for people.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, update

from gateway.errors import LeaseLost
from gateway.model.lease import Lease, Server
from gateway.store.schema import leases, servers

T = TypeVar("T")


class Grip(NamedTuple):
    """What a holder shows with every write: nobody else may have taken the lease since."""

    cluster: str
    holder: str
    term: int


class Others(BaseModel):
    """Every server and every lease, as they stand; `now` by the database's clock."""

    model_config = ConfigDict(frozen=True)

    now: datetime
    servers: tuple[Server, ...]
    leases: tuple[Lease, ...]


def look(connection: Connection) -> Others:
    rows = connection.execute(select(servers).order_by(servers.c.name))
    found = tuple(Server.model_validate(row, from_attributes=True) for row in rows)
    held = connection.execute(select(leases).order_by(leases.c.cluster))
    return Others(
        now=_now(connection),
        servers=found,
        leases=tuple(Lease.model_validate(row, from_attributes=True) for row in held),
    )


def beat(
    connection: Connection, me: Server, keep: Iterable[Grip], take: Iterable[Lease], gone: Iterable[Server]
) -> Mapping[str, int]:
    """A sign of life: renew the leases to keep, take those that are still as they were seen, forget servers that ended.

    Returns the terms of all that this server holds now, by cluster.
    """
    now = _now(connection)
    _save(connection, me, now)
    for grip in keep:
        values = {"renewals": leases.c.renewals + 1, "renewed_at": now, "seconds": me.seconds}
        connection.execute(update(leases).where(_held(grip)).values(**values))
    for seen in take:
        _take(connection, me, seen, now)
    for server in gone:
        connection.execute(delete(servers).where(servers.c.name == server.name, servers.c.beats == server.beats))
    rows = connection.execute(select(leases.c.cluster, leases.c.term).where(leases.c.holder == me.name))
    return {row.cluster: row.term for row in rows}


def give(connection: Connection, grip: Grip) -> None:
    """Give a lease back, if it is still held."""
    connection.execute(update(leases).where(_held(grip)).values(holder="", renewals=leases.c.renewals + 1))


def leave(connection: Connection, name: str) -> None:
    """The server ends: it holds nothing any more."""
    values = {"holder": "", "renewals": leases.c.renewals + 1}
    connection.execute(update(leases).where(leases.c.holder == name).values(**values))
    connection.execute(delete(servers).where(servers.c.name == name))


def fenced(connection: Connection, grip: Grip, work: Callable[[Connection], T]) -> T:
    """Run a write of the loop, unless the lease was taken by somebody else. LeaseLost if it was."""
    if connection.execute(select(leases.c.cluster).where(_held(grip))).first() is None:
        raise LeaseLost(f"another server works for cluster {grip.cluster} now", hint="Nothing was written.")
    return work(connection)


def _held(grip: Grip) -> ColumnElement[bool]:
    return and_(leases.c.cluster == grip.cluster, leases.c.holder == grip.holder, leases.c.term == grip.term)


def _save(connection: Connection, me: Server, now: datetime) -> None:
    values = {"beats": servers.c.beats + 1, "seen_at": now}
    if connection.execute(update(servers).where(servers.c.name == me.name).values(**values)).rowcount == 0:
        row = me.model_dump(exclude={"beats", "seen_at", "clusters"})
        connection.execute(insert(servers).values(**row, clusters=list(me.clusters), beats=1, seen_at=now))


def _take(connection: Connection, me: Server, seen: Lease, now: datetime) -> None:
    values = {"holder": me.name, "seconds": me.seconds, "taken_at": now, "renewed_at": now}
    if seen.term == 0:
        known = connection.execute(select(leases.c.term).where(leases.c.cluster == seen.cluster)).first()
        if known is None:
            connection.execute(insert(leases).values(cluster=seen.cluster, term=1, renewals=1, **values))
        return
    still = and_(leases.c.cluster == seen.cluster, leases.c.term == seen.term, leases.c.renewals == seen.renewals)
    changed = {**values, "term": seen.term + 1, "renewals": leases.c.renewals + 1}
    connection.execute(update(leases).where(still).values(**changed))


def _now(connection: Connection) -> datetime:
    """The database's clock; SQLite has this machine's."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return moment
