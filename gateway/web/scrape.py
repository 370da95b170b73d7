"""`/metrics`, at the same place on every port: what this process counts of itself, for Prometheus.

Each service has it, so that none has to be asked by way of another: of several processes each counts its own.
"""

from fastapi import Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from gateway.core.context import Gateway
from gateway.web import context, refusals
from gateway.web.app import Part, api
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.metrics import cost_of, exposition
from gateway.web.openapi import Api

PATH = "/metrics"
MAX_BODY = 1 << 14


def rest(gateway: Gateway) -> Api:
    """The FastAPI app of /metrics."""
    app = api(title="Sluice metrics", prefix=PATH)
    context.hold(app, gateway)

    @app.get(PATH, operation_id="processMetrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics(gateway: Gw, caller: Caller, request: Request) -> Response:
        """Requests, the data plane, what is asked of Slurm: whatever this process does. Asks nobody for it."""
        del caller
        return Response(exposition(request.state.metrics, cost_of(gateway)), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return app


def part(gateway: Gateway) -> Part:
    """It as a part of a frame: for whoever may read."""
    return Part(
        name="metrics", prefixes=(PATH,), app=rest(gateway), max_body=MAX_BODY, refused=refusals.teller(gateway)
    )
