"""Clusters as last seen by the reconcile loop: reading them asks no Slurm."""

from gateway.core.context import Gateway
from gateway.model.api import ClusterView
from gateway.store import clusters as store
from gateway.store.clusters import SeenCluster


async def views(gateway: Gateway) -> list[ClusterView]:
    """Every configured cluster, with what the last poll said of it."""
    seen = {cluster.name: cluster for cluster in await gateway.db.read(store.every)}
    return [
        _view(seen.get(name) or _unseen(name, settings.backend)) for name, settings in gateway.settings.clusters.items()
    ]


def _unseen(name: str, backend: str) -> SeenCluster:
    return SeenCluster(name=name, backend=backend, reachable=False, message="not asked yet")


def _view(seen: SeenCluster) -> ClusterView:
    inventory = seen.inventory
    return ClusterView(
        name=seen.name,
        backend=seen.backend,
        version=seen.slurm_version,
        reachable=seen.reachable,
        message=seen.message,
        polled_at=seen.polled_at,
        partitions=list(inventory.partitions) if inventory else [],
        nodes=list(inventory.nodes) if inventory else [],
        gpus=list(inventory.gpus()) if inventory else [],
    )
