"""`/api/v1/health`: whether this process is alive, and whether it can do its work."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from gateway.core import admission
from gateway.core.context import Gateway
from gateway.core.leases import Standing
from gateway.errors import DatabaseUnavailable
from gateway.model import health
from gateway.model.api import HealthView
from gateway.model.health import WELL, Pulse, ill
from gateway.server.api import examples
from gateway.store import clusters
from gateway.store.database import ping
from gateway.web.app import product_version
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import example

if TYPE_CHECKING:
    from gateway.core.reconcile import Reconciler

router = APIRouter(prefix="/health", tags=["health"])

TIMEOUT = 3.0
OLD_POLL = 60.0
Ages = Mapping[str, float | None]


@router.get("/live", operation_id="live", summary="Is the process alive?")
async def live() -> dict[str, str]:
    """Asks nobody. The one path that needs no token."""
    return {"status": "ok"}


@router.get(
    "/ready",
    operation_id="ready",
    summary="Can it do its work?",
    responses={
        200: example(examples.HEALTH, "The database answers; `degraded` if a cluster has not answered for a minute."),
        503: {"model": HealthView, "description": "The database does not answer."},
    },
)
async def ready(gateway: Gw, caller: Caller, request: Request, response: Response) -> HealthView:
    """Asks the database, and says how long ago each cluster answered and which server works for it.

    Sessions are accepted while Slurm is away.
    """
    del caller
    reconciler: Reconciler = request.app.state.reconciler
    database = await check_database(gateway)
    pulses = {"database": database}
    if not database.well:
        response.status_code = 503
        return health.view(pulses, product_version())
    seen = {cluster.name: cluster.polled_at for cluster in await gateway.db.read(clusters.every)}
    ages: Ages = reconciler.age()
    for standing in await reconciler.leases.standings():
        name, polled_at = standing.cluster, seen.get(standing.cluster)
        age = (gateway.clock() - polled_at).total_seconds() if polled_at else None
        age = ages.get(name, age)
        pulses[f"cluster {name}"] = _polled(age)
        pulses[f"lease {name}"] = Pulse(well=True, says=_held(standing))
    pulses["policies"] = admission.health(gateway)
    return health.view(pulses, product_version())


def _polled(age: float | None) -> Pulse:
    if age is None:
        return ill("has not answered yet")
    return Pulse(well=age < OLD_POLL, says=f"answered {age:.1f} s ago")


def _held(standing: Standing) -> str:
    if not standing.holder or standing.age is None:
        return "nobody has it"
    here = ", this server" if standing.here else ""
    return f"{standing.holder}{here}: term {standing.term}, renewed {max(0.0, standing.age):.1f} s ago"


async def check_database(gateway: Gateway) -> Pulse:
    """Whether it answers."""
    try:
        async with asyncio.timeout(TIMEOUT):
            await gateway.db.read(ping)
    except TimeoutError:
        return ill(f"no answer within {TIMEOUT:g} s")
    except DatabaseUnavailable as error:
        return ill(error.message)
    return WELL
