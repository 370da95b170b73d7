"""`/api/v1/metrics`: what this server counts of itself, for Prometheus."""

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.metrics import cost_of, exposition

router = APIRouter(prefix="/metrics", tags=["health"])


@router.get(
    "",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus's text."}},
)
async def metrics(gateway: Gw, caller: Caller, request: Request) -> Response:
    """What this server asks of Slurm and what that costs, its requests, its process.

    Asks neither Slurm nor the database. Sessions and clusters are told by the monitoring service.
    """
    del caller
    return Response(exposition(request.state.metrics, cost_of(gateway)), media_type=CONTENT_TYPE_PLAIN_0_0_4)
