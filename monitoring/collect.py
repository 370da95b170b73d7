"""What Prometheus is told of sessions and clusters: read from the database at each scrape, never from Slurm."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from gateway.model.inventory import Node
from gateway.model.orphan import OrphanKind
from gateway.store import clusters, counts, events, orphans
from gateway.store.clusters import SeenCluster
from gateway.store.counts import SessionCount
from gateway.web.metrics import Described

SESSIONS = Described(
    "sluice_sessions", "gauge", "Sessions that are kept, ended ones, too, by phase.", ("cluster", "recipe", "phase")
)
EVENTS = Described("sluice_events", "counter", "Events written since the beginning.")
ORPHANS = Described(
    "sluice_orphans",
    "counter",
    "Jobs that no session followed, and were ended (`unknown`, `ended`, `double`); sessions whose job was `lost`.",
    ("cluster", "kind"),
)
REACHABLE = Described("sluice_cluster_reachable", "gauge", "1 if Slurm answered last.", ("cluster",))
POLL_AGE = Described(
    "sluice_cluster_poll_age_seconds",
    "gauge",
    "Since Slurm last answered; written down at most every 15 s.",
    ("cluster",),
)
POLL_TOOK = Described("sluice_cluster_poll_seconds", "gauge", "What the last poll took.", ("cluster",))
NODES = Described(
    "sluice_cluster_nodes", "gauge", "Nodes; available ones would start a job now.", ("cluster", "available")
)
CPUS = Described("sluice_cluster_cpus", "gauge", "CPUs, `used` or `free`.", ("cluster", "use"))
GPUS = Described(
    "sluice_cluster_gpus",
    "gauge",
    "GPUs by GRES type: `used`, `free`, or `unavailable` on a node that starts nothing now.",
    ("cluster", "gres", "type", "use"),
)
DESCRIBED = (SESSIONS, EVENTS, ORPHANS, REACHABLE, POLL_AGE, POLL_TOOK, NODES, CPUS, GPUS)


@dataclass(frozen=True, eq=False)
class Picture(Collector):
    """What the database says at one moment."""

    at: datetime
    sessions: Sequence[SessionCount]
    clusters: Sequence[SeenCluster]
    newest_event: int
    orphans: Mapping[tuple[str, OrphanKind], int]

    @classmethod
    def read(cls, connection: Connection, at: datetime) -> "Picture":
        return cls(
            at,
            counts.by_phase(connection),
            clusters.every(connection),
            events.newest(connection),
            orphans.counts(connection),
        )

    def collect(self) -> Iterator[Metric]:
        """The protocol of a Prometheus collector."""
        yield from self._sessions()
        yield from self._polls()
        for seen in self.clusters:
            if seen.inventory is not None:
                yield from _inventory(seen.name, seen.inventory.nodes)

    def _sessions(self) -> Iterator[Metric]:
        family = SESSIONS.gauge()
        for found in self.sessions:
            family.add_metric([found.cluster, found.recipe, found.phase], found.count)
        yield family
        events_written = EVENTS.counter()
        events_written.add_metric([], self.newest_event)
        yield events_written
        stray = ORPHANS.counter()
        for seen in self.clusters:
            for kind in OrphanKind:
                stray.add_metric([seen.name, kind], self.orphans.get((seen.name, kind), 0))
        yield stray

    def _polls(self) -> Iterator[Metric]:
        reachable, age, took = REACHABLE.gauge(), POLL_AGE.gauge(), POLL_TOOK.gauge()
        for seen in self.clusters:
            reachable.add_metric([seen.name], int(seen.reachable))
            if seen.polled_at is not None:
                age.add_metric([seen.name], max(0.0, (self.at - seen.polled_at).total_seconds()))
            if seen.poll_seconds is not None:
                took.add_metric([seen.name], seen.poll_seconds)
        yield from (reachable, age, took)


def _inventory(cluster: str, nodes: Sequence[Node]) -> Iterator[Metric]:
    by_use = NODES.gauge()
    for available in (True, False):
        count = sum(node.available is available for node in nodes)
        by_use.add_metric([cluster, str(available).lower()], count)
    yield by_use
    cpus = CPUS.gauge()
    used = sum(node.cpus_used for node in nodes)
    cpus.add_metric([cluster, "used"], used)
    cpus.add_metric([cluster, "free"], sum(node.cpus for node in nodes) - used)
    yield cpus
    gpus = GPUS.gauge()
    sums: dict[tuple[str, str, str], int] = {}
    for node in nodes:
        for gpu in node.gpus:
            idle = "free" if node.available else "unavailable"
            for use, number in (("used", gpu.used), (idle, gpu.free)):
                sums[gpu.name, gpu.type, use] = sums.get((gpu.name, gpu.type, use), 0) + number
    for key, number in sorted(sums.items()):
        gpus.add_metric([cluster, *key], number)
    yield gpus
