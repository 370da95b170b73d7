"""What Prometheus is told of sessions and clusters: read from the database at each scrape, never from Slurm."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from gateway.model.inventory import Node
from gateway.store import clusters, counts, events
from gateway.store.clusters import SeenCluster
from gateway.store.counts import SessionCount


@dataclass(frozen=True, eq=False)
class Picture(Collector):
    """What the database says at one moment."""

    at: datetime
    sessions: Sequence[SessionCount]
    clusters: Sequence[SeenCluster]
    newest_event: int

    @classmethod
    def read(cls, connection: Connection, at: datetime) -> "Picture":
        return cls(at, counts.by_phase(connection), clusters.every(connection), events.newest(connection))

    def collect(self) -> Iterator[Metric]:
        """The protocol of a Prometheus collector."""
        yield from self._sessions()
        yield from self._polls()
        for seen in self.clusters:
            if seen.inventory is not None:
                yield from _inventory(seen.name, seen.inventory.nodes)

    def _sessions(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "sluice_sessions", "Sessions that are kept, by phase.", labels=["cluster", "recipe", "phase"]
        )
        for found in self.sessions:
            family.add_metric([found.cluster, found.recipe, found.phase], found.count)
        yield family
        yield CounterMetricFamily("sluice_events", "Events written since the beginning.", value=self.newest_event)

    def _polls(self) -> Iterator[Metric]:
        reachable = GaugeMetricFamily("sluice_cluster_reachable", "1 if Slurm answered last.", labels=["cluster"])
        age = GaugeMetricFamily("sluice_cluster_poll_age_seconds", "Since Slurm last answered.", labels=["cluster"])
        took = GaugeMetricFamily("sluice_cluster_poll_seconds", "What the last poll took.", labels=["cluster"])
        for seen in self.clusters:
            reachable.add_metric([seen.name], int(seen.reachable))
            if seen.polled_at is not None:
                age.add_metric([seen.name], max(0.0, (self.at - seen.polled_at).total_seconds()))
            if seen.poll_seconds is not None:
                took.add_metric([seen.name], seen.poll_seconds)
        yield from (reachable, age, took)


def _inventory(cluster: str, nodes: Sequence[Node]) -> Iterator[Metric]:
    by_use = GaugeMetricFamily(
        "sluice_cluster_nodes", "Nodes; available ones would start a job now.", labels=["cluster", "available"]
    )
    for available in (True, False):
        count = sum(node.available is available for node in nodes)
        by_use.add_metric([cluster, str(available).lower()], count)
    yield by_use
    cpus = GaugeMetricFamily("sluice_cluster_cpus", "CPUs, in use or not.", labels=["cluster", "use"])
    used = sum(node.cpus_used for node in nodes)
    cpus.add_metric([cluster, "used"], used)
    cpus.add_metric([cluster, "free"], sum(node.cpus for node in nodes) - used)
    yield cpus
    gpus = GaugeMetricFamily(
        "sluice_cluster_gpus",
        "GPUs by GRES type; those of nodes that start nothing now are `unavailable`.",
        labels=["cluster", "gres", "type", "use"],
    )
    sums: dict[tuple[str, str, str], int] = {}
    for node in nodes:
        for gpu in node.gpus:
            idle = "free" if node.available else "unavailable"
            for use, number in (("used", gpu.used), (idle, gpu.free)):
                sums[gpu.name, gpu.type, use] = sums.get((gpu.name, gpu.type, use), 0) + number
    for key, number in sorted(sums.items()):
        gpus.add_metric([cluster, *key], number)
    yield gpus
