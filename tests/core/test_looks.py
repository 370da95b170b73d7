"""Looks that are held up, and inventories that hang: neither keeps the loop from following what happens next."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from gateway.core import pace, sessions
from gateway.model.session import Phase, Session
from tests.waiting import until_so

Ask = Callable[..., Awaitable[Session]]


async def now(world: Any, session: Session) -> Session:
    return await sessions.get(world.gateway, world.caller, session.id)


@asynccontextmanager
async def running(world: Any) -> AsyncIterator[None]:
    """The loop, until the test is over; it ends at once, whatever it has asked."""
    task = asyncio.create_task(world.loop.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=60)
        assert task.done(), "the loop has ended"


async def test_one_look_that_was_held_up_is_followed_by_the_next_soon(world: Any, ask: Ask) -> None:
    await ask()
    await world.turn(2)
    world.slurm.faults.delay = 4.0
    assert await world.loop.turn() == pace.POLL_COST * 1.0
    assert await world.loop.turn() == pace.POLL_COST * 2.0
    assert await world.loop.turn() == pace.POLL_COST * 4.0
    world.slurm.faults.delay = 0.0
    await world.loop.settle()


async def test_an_slurmdbd_that_hangs_holds_up_no_session(world: Any, ask: Ask) -> None:
    session = await ask()
    await world.turn()
    world.slurm.faults.accounting_down, world.slurm.faults.accounting_delay = True, 3600.0
    world.slurm.start(1)
    world.restarted()
    async with running(world):
        await until_so(lambda: now(world, session), lambda found: found.word == "running")
        assert world.slurm.calls["inventory"] == 2


async def test_without_slurmdbd_a_session_is_submitted_also_if_it_is_the_only_one(world: Any, ask: Ask) -> None:
    world.slurm.faults.accounting_down = True
    session = await ask()
    await world.turn()
    assert (await now(world, session)).phase is Phase.QUEUED
