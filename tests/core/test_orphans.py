"""Sweeping before the in-memory Slurm: jobs without a session end, what belongs to others stays."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.core import sessions
from gateway.core.leases import Hold, moment
from gateway.model.job import JobOptions, JobScript, JobState
from gateway.model.orphan import OrphanKind
from gateway.model.session import Phase, Session
from gateway.store import orphans
from gateway.store import sessions as store

NAME = "sluice-01jd0000000000000000000000-1"
Ask = Callable[..., Awaitable[Session]]


def script(name: str = NAME, comment: str = "") -> JobScript:
    return JobScript(options=JobOptions(name=name, comment=comment), text="#!/bin/sh\n")


def states(world: Any) -> dict[int, JobState]:
    return {seen.job_id: seen.state for _, _, seen in world.slurm.submitted()}


async def sweeps(world: Any, times: int = 3) -> None:
    """So many sweeps: the first turn only sets the time of the next."""
    for _ in range(times):
        await world.turn()
        world.time.pass_(301)
    await world.turn()


async def counted(world: Any) -> dict[OrphanKind, int]:
    found = await world.gateway.db.read(orphans.counts)
    return {kind: number for (_, kind), number in found.items()}


async def user(world: Any) -> str:
    return str(world.gateway.clusters["c"].settings.user)


async def test_a_job_of_a_forgotten_session_is_ended_once_two_sweeps_saw_it(world: Any) -> None:
    owner, mine = await user(world), f"sluice/1@{world.gateway.instance}"
    gone = await world.slurm.submit(script(comment=mine), owner)
    foreign = await world.slurm.submit(script(comment="sluice/1@99999999"), owner)
    silent = await world.slurm.submit(script(), owner)
    strange = await world.slurm.submit(script("sluice-of-mine", mine), owner)
    await world.turn()
    world.time.pass_(301)
    await world.turn()
    assert states(world)[gone] is JobState.PENDING, "one sweep is not enough"
    world.time.pass_(31)
    await world.turn()
    assert states(world) == {
        gone: JobState.CANCELLED,
        foreign: JobState.PENDING,
        silent: JobState.PENDING,
        strange: JobState.PENDING,
    }
    await sweeps(world)
    assert await counted(world) == {OrphanKind.UNKNOWN: 1}


async def test_jobs_that_are_followed_are_left_alone(world: Any, ask: Ask) -> None:
    for _ in range(3):
        await ask()
    await world.turn()
    world.slurm.start(1)
    await sweeps(world)
    assert set(states(world).values()) == {JobState.RUNNING, JobState.PENDING}
    assert await counted(world) == {}


async def test_what_an_agent_says_keeps_saying_whose_the_job_is(world: Any, ask: Ask) -> None:
    session = await ask()
    await world.turn()
    ((sent, _, seen),) = world.slurm.submitted()
    assert sent.options.comment == seen.comment == f"sluice/1@{world.gateway.instance}"
    assert f'"gateway": "{world.gateway.instance}"' in sent.text
    del session


async def test_the_second_job_of_an_attempt_is_ended(world: Any, ask: Ask) -> None:
    session = await ask()
    await world.turn()
    again = await sessions.script(world.gateway, world.caller, session.id)
    double = await world.slurm.submit(again, session.unix_user)
    await sweeps(world)
    assert states(world) == {1: JobState.PENDING, double: JobState.CANCELLED}
    assert await counted(world) == {OrphanKind.DOUBLE: 1}


async def test_a_double_that_has_begun_is_taken_and_the_waiting_one_ended(world: Any, ask: Ask) -> None:
    session = await ask()
    await world.turn()
    double = await world.slurm.submit(await sessions.script(world.gateway, world.caller, session.id), session.unix_user)
    world.slurm.start(double)
    await sweeps(world)
    assert states(world) == {1: JobState.CANCELLED, double: JobState.RUNNING}
    current = await sessions.get(world.gateway, world.caller, session.id)
    assert (current.phase, current.job.job_id) == (Phase.READY, double)


async def test_a_job_that_made_way_hands_its_session_to_the_first(world: Any, ask: Ask) -> None:
    session = await ask()
    await world.turn()
    first = await world.slurm.submit(await sessions.script(world.gateway, world.caller, session.id), session.unix_user)
    world.slurm.start(first)
    world.slurm.start(1, "node2")
    world.slurm.announce(1, f"sluice/1@{world.gateway.instance} ended reason=duplicate code=75 holder={first}")
    world.slurm.finish(1, exit_code=75)
    await world.turn(2)
    current = await sessions.get(world.gateway, world.caller, session.id)
    assert (current.phase, current.job.job_id) == (Phase.READY, first)


async def test_a_job_whose_session_has_ended_is_ended(world: Any, ask: Ask) -> None:
    session = await ask()
    await world.turn()
    world.slurm.start(1)
    current = await sessions.get(world.gateway, world.caller, session.id)
    over = current.model_copy(update={"phase": Phase.FAILED, "ended_at": world.time()})
    await world.gateway.db.write(store.save, current, over, world.time())
    await sweeps(world)
    assert states(world) == {1: JobState.CANCELLED}
    assert await counted(world) == {OrphanKind.ENDED: 1}


async def test_a_session_whose_job_nobody_knows_is_counted(world: Any, ask: Ask) -> None:
    session = await ask()
    await world.turn()
    world.slurm.forget(1)
    for _ in range(17):
        await world.turn()
        world.time.pass_(61)
    lost = await sessions.get(world.gateway, world.caller, session.id)
    assert (lost.phase, lost.reason) == (Phase.FAILED, "job_lost")
    assert await counted(world) == {OrphanKind.LOST: 1}


async def test_hours_without_accounting_lose_nothing(world: Any, ask: Ask) -> None:
    session = await ask()
    await world.turn()
    world.slurm.start(1)
    await world.turn()
    world.slurm.purge(1)
    world.slurm.faults.accounting_down = True
    for _ in range(30):
        world.time.pass_(120)
        await world.turn()
    assert not (await sessions.get(world.gateway, world.caller, session.id)).phase.ended
    world.slurm.faults.accounting_down = False
    world.slurm.finish(1)
    await world.turn()
    assert (await sessions.get(world.gateway, world.caller, session.id)).phase is Phase.SUCCEEDED


@pytest.mark.parametrize("forth", [3600.0, -3600.0])
async def test_a_clock_that_is_set_sends_nothing_twice(world: Any, ask: Ask, forth: float) -> None:
    await ask()
    world.slurm.faults.lose_requests = 1
    await world.turn(2)
    world.time.set_(forth)
    for _ in range(8):
        world.time.pass_(10)
        await world.turn()
    assert world.slurm.calls["submit"] == 1, "eighty seconds have passed, whatever the clock says"
    for _ in range(6):
        world.time.pass_(15)
        await world.turn()
    assert world.slurm.calls["submit"] == 2


async def test_a_server_that_was_stopped_before_it_sent_does_not_send(world: Any, ask: Ask) -> None:
    """SIGSTOP between the intent and the submit: minutes pass while the act waits for its turn."""
    session = await ask()
    hold = world.hold = Hold(world.hold.grip, 3600, moment() - 3600)  # its lease has to be renewed before it acts
    world.restarted()
    await world.loop.turn()  # the intent is recorded, the act about to begin
    world.time.pass_(300)
    hold.renewed(moment())
    await world.loop.settle()
    assert world.slurm.calls["submit"] == 0
    current = await sessions.get(world.gateway, world.caller, session.id)
    assert (current.phase, current.job.intent_at) == (Phase.REQUESTED, None)
    world.time.pass_(5)
    await world.turn()
    assert world.slurm.calls["submit"] == 1


async def test_the_next_in_line_is_tried_at_once_when_something_of_the_users_ends(world: Any, ask: Ask) -> None:
    world.slurm._max_submit = 2
    asked = [await ask() for _ in range(5)]
    await world.turn(2)
    waiting = [s for s in asked if (await sessions.get(world.gateway, world.caller, s.id)).reason == "limit"]
    assert len(waiting) == 3
    tries = world.slurm.calls["submit"]
    world.slurm.start(1)
    world.slurm.finish(1)
    await world.turn()
    oldest = await sessions.get(world.gateway, world.caller, waiting[0].id)
    assert oldest.job.job_id is not None
    assert world.slurm.calls["submit"] == tries + 1, "one has ended, one is tried"


async def test_a_controller_that_is_away_is_asked_ever_more_seldom(world: Any, ask: Ask) -> None:
    await ask()
    world.slurm.faults.refuse_requests = 1000
    for _ in range(600):
        await world.turn()
        world.time.pass_(1)
    assert 5 <= world.slurm.calls["submit"] <= 20
    world.slurm.faults.refuse_requests = 0
    world.time.pass_(120)
    await world.turn()
    assert len(world.slurm.submitted()) == 1


async def test_secrets_of_a_session_that_ends_are_not_left_behind(world: Any, ask: Ask) -> None:
    session = await ask("login", parameters={"token": "hunter2"})
    staged = world.home / "sessions" / session.id / "secrets.json"
    await world.turn()
    assert staged.exists()
    await sessions.stop(world.gateway, world.caller, session.id)
    await world.turn(3)
    assert (await sessions.get(world.gateway, world.caller, session.id)).phase is Phase.STOPPED
    assert not staged.exists()
