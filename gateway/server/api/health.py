"""`/api/v1/health`: whether this process is alive, and whether it can do its work."""

import asyncio
from collections.abc import Mapping

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import SQLAlchemyError

from gateway.core.context import Gateway
from gateway.model.api import HealthView
from gateway.server.api import examples
from gateway.store.database import ping
from gateway.web.app import product_version
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import example

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
    """Asks the database, and says how long ago each cluster answered. Sessions are accepted while Slurm is away."""
    del caller
    database = await check_database(gateway)
    ages: Ages = request.app.state.reconciler.age()
    polls = {
        f"cluster {name}": "has not answered yet" if age is None else f"answered {age:.1f} s ago"
        for name, age in ages.items()
    }
    fresh = all(age is not None and age < OLD_POLL for age in ages.values())
    if database != "ok":
        response.status_code = 503
    status = "ok" if fresh and database == "ok" else "degraded"
    return HealthView(status=status, version=product_version(), checks={"database": database, **polls})


async def check_database(gateway: Gateway) -> str:
    """`ok`, or what is wrong."""
    try:
        async with asyncio.timeout(TIMEOUT):
            await gateway.db.read(ping)
    except TimeoutError:
        return f"no answer within {TIMEOUT:g} s"
    except SQLAlchemyError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return "ok"
