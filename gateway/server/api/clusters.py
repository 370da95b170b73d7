"""`/api/v1/clusters`: partitions, nodes and free GPUs, as the last poll saw them."""

from fastapi import APIRouter

from gateway.core import clusters
from gateway.errors import ClusterNotFound
from gateway.model.api import ClusterView, Page
from gateway.server.api import examples
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import example, problems

router = APIRouter(prefix="/clusters", tags=["clusters"])


@router.get(
    "",
    operation_id="listClusters",
    summary="List the clusters",
    responses={200: example({"items": [examples.CLUSTER], "next": None}, "Every cluster.")},
)
async def list_clusters(gateway: Gw, caller: Caller) -> Page[ClusterView]:
    """Reading asks no Slurm; `polled_at` says how old the answer is."""
    del caller
    return Page[ClusterView](items=await clusters.views(gateway))


@router.get(
    "/{name}",
    operation_id="getCluster",
    summary="Get a cluster",
    responses={200: example(examples.CLUSTER, "The cluster."), **problems(404)},
)
async def get_cluster(gateway: Gw, caller: Caller, name: str) -> ClusterView:
    """One cluster with its partitions, nodes and GPUs by type."""
    del caller
    found = await clusters.views(gateway)
    wanted = next((view for view in found if view.name == name), None)
    if wanted is None:
        known = ", ".join(view.name for view in found) or "none"
        raise ClusterNotFound(f"there is no cluster {name!r}", hint=f"Known: {known}.")
    return wanted
