"""The database restarts under a working gateway: it goes on, and no session is lost or run twice."""

import signal
from typing import Any

import pytest

from gateway.core import sessions
from gateway.model.api import SessionRequest
from gateway.model.image import Image
from gateway.model.session import Phase
from gateway.store import images
from tests.postgresql import Server

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_session_outlives_a_restart_at_every_step(world: Any, postgresql: Server, how: signal.Signals) -> None:
    gateway, caller, slurm = world.gateway, world.caller, world.slurm
    image = Image(cluster="c", name="base", sha256="b" * 64, path="/i/base.sif", size=1, built_at=world.time())
    await gateway.db.write(images.save, image)
    postgresql.restart(how)
    request = SessionRequest(recipe="count")
    session, created = await sessions.create(gateway, caller, request, idempotency_key="one")
    assert created
    postgresql.restart(how)
    assert (await sessions.create(gateway, caller, request, idempotency_key="one"))[0].id == session.id
    postgresql.restart(how)
    await world.turn()
    ((_, _, seen),) = slurm.submitted()
    slurm.start(seen.job_id)
    await world.turn()
    postgresql.restart(how)
    slurm.finish(seen.job_id)
    await world.turn()
    assert (await sessions.get(gateway, caller, session.id)).phase is Phase.SUCCEEDED
    assert len(slurm.submitted()) == 1
