"""The database restarts under a working gateway: it goes on, and no session is lost or run twice."""

import asyncio
import signal
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

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


async def test_a_database_that_is_away_is_said_once_and_once_that_it_is_back(world: Any, postgresql: Server) -> None:
    await world.turn()

    async def until_logged(event: str, logs: list[MutableMapping[str, Any]], within: float = 120) -> None:
        never = asyncio.Event()
        async with asyncio.timeout(within):
            while event not in [entry["event"] for entry in logs]:
                world.gateway.work.ring()  # each ring is another question to the database
                with suppress(TimeoutError):
                    await asyncio.wait_for(never.wait(), 0.05)

    with capture_logs() as logs:
        loop = asyncio.create_task(world.loop.run())
        try:
            postgresql.stop(signal.SIGQUIT)
            try:
                await until_logged("database away", logs)
                with pytest.raises(TimeoutError):
                    await until_logged("something else", logs, within=1)
            finally:
                postgresql.start()
            await until_logged("database back", logs)
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
    said = [
        (entry["event"], entry["log_level"]) for entry in logs if "exc_info" in entry or "database" in entry["event"]
    ]
    assert said == [("database away", "warning"), ("database back", "info")]
