"""The monitoring service: what Prometheus scrapes, and whether all is well, under /monitoring."""

from collections.abc import Mapping

from fastapi import Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from gateway.core.context import Gateway
from gateway.errors import DatabaseUnavailable
from gateway.identity.opening import open_callers
from gateway.model.api import HealthView
from gateway.model.health import WELL, Pulse, ill, view
from gateway.store import clusters
from gateway.web import context, refusals
from gateway.web.app import Part, Web, api, product_version
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.metrics import cost_of, exposition
from gateway.web.openapi import Api
from monitoring.collect import Picture

PREFIX = "/monitoring"
MAX_BODY = 1 << 14
OLD_POLL = 90.0


def rest(gateway: Gateway) -> Api:
    """The FastAPI app of /monitoring."""
    app = api(title="Sluice monitoring", prefix=PREFIX)
    context.hold(app, gateway)

    @app.get(f"{PREFIX}/metrics", operation_id="metrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics(gateway: Gw, caller: Caller, request: Request) -> Response:
        """Sessions and clusters from the database, and what this process counts of itself.

        What is asked of Slurm is counted by the server: here in the all-in-one gateway, else at /api/v1/metrics.
        """
        del caller
        picture = await gateway.db.read(Picture.read, gateway.clock())
        text = exposition(request.state.metrics, picture, cost_of(gateway))
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @app.get(f"{PREFIX}/health", operation_id="monitoringHealth", summary="Is all well?")
    async def health(gateway: Gw, caller: Caller, response: Response) -> HealthView:
        """503 unless the database answers and every cluster was polled not long ago."""
        del caller
        told = view(await check(gateway), product_version())
        response.status_code = 200 if told.status == "ok" else 503
        return told

    return app


async def check(gateway: Gateway) -> Mapping[str, Pulse]:
    """What is well and what is not, by name."""
    try:
        seen = {cluster.name: cluster for cluster in await gateway.db.read(clusters.every)}
    except DatabaseUnavailable as error:
        return {"database": ill(error.message)}
    pulses, now = {"database": WELL}, gateway.clock()
    for name in gateway.settings.clusters:
        cluster = seen.get(name)
        if cluster is None or cluster.polled_at is None:
            pulses[f"cluster {name}"] = ill("has not answered yet")
        elif not cluster.reachable:
            pulses[f"cluster {name}"] = ill(cluster.message or "does not answer")
        else:
            age = (now - cluster.polled_at).total_seconds()
            late = f"last polled {age:.0f} s ago: is the server running?"
            pulses[f"cluster {name}"] = WELL if age < OLD_POLL else ill(late)
    return pulses


def part(gateway: Gateway) -> Part:
    """The monitoring service as a part of a frame."""
    return Part(
        name="monitoring", prefixes=(PREFIX,), app=rest(gateway), max_body=MAX_BODY, refused=refusals.teller(gateway)
    )


def app(gateway: Gateway) -> Web:
    """The monitoring service on a port of its own."""
    return Web([part(gateway)], open_callers(gateway), gateway.settings.serve)
