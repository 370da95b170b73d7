"""Which server works for which cluster: what a server decides from what it sees of the others. Pure.

A cluster has one poller, whatever the number of servers: the one that holds the cluster's lease. Leases are spread:
a free one goes to the server that holds the fewest, and who holds two more than another gives one away.
"""

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(_Row):
    """One server process. `name` is never used twice; `beats` counts its signs of life.

    `place` is the machine since its last start, and the process namespace in it: where it is the same as here, `pid`
    and `started` (clock ticks since the machine's start) tell whether the process is still there.
    """

    name: str
    host: str
    pid: int
    started: int
    place: str
    clusters: tuple[str, ...]
    seconds: float
    beats: int = 0
    seen_at: datetime | None = None

    @property
    def shown(self) -> str:
        return f"{self.host} (process {self.pid})"


class Lease(_Row):
    """Who works for a cluster. `holder` is a server's name, empty where it was given back.

    `term` grows with every change of holder: what an earlier term still wants to write is refused. `renewals` grows
    with every sign of life. `seconds` is how long after the last one the holder may act.
    """

    cluster: str
    holder: str = ""
    term: int = 0
    renewals: int = 0
    seconds: float = 0.0
    taken_at: datetime | None = None
    renewed_at: datetime | None = None


class Decision(_Row):
    """What to do about leases: which to take (as they were seen), and which to give away."""

    take: tuple[Lease, ...] = ()
    give: tuple[str, ...] = ()


def decide(me: Server, live: Mapping[str, Server], leases: Mapping[str, Lease], free: frozenset[str]) -> Decision:
    """The leases to take and to give away.

    `live` are the servers that show signs of life, by name; `free` are clusters whose lease nobody holds any more.
    Every server decides by the same rule from the same rows, so that the one that is meant takes a free lease.
    """
    servers = {**live, me.name: me}
    load = dict.fromkeys(servers, 0)
    for cluster, lease in leases.items():
        if cluster not in free and lease.holder in load:
            load[lease.holder] += 1
    take = []
    for cluster in sorted(free):
        able = [name for name, server in servers.items() if cluster in server.clusters]
        if not able:
            continue
        chosen = min(able, key=lambda name: (load[name], name))
        load[chosen] += 1
        if chosen == me.name:
            take.append(leases.get(cluster) or Lease(cluster=cluster))
    mine = sorted(cluster for cluster, lease in leases.items() if lease.holder == me.name and cluster not in free)
    for cluster in mine:
        others = [name for name, server in servers.items() if name != me.name and cluster in server.clusters]
        if any(load[name] + 1 < load[me.name] for name in others):
            return Decision(take=tuple(take), give=(cluster,))  # one at a time, or it would be too many
    return Decision(take=tuple(take))
