"""Several jobs of one session: as many as there should be, none twice, none lost, and the session stays ready."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from gateway.core import scaling, sessions
from gateway.errors import Conflict, Forbidden, Invalid, SessionNotFound
from gateway.model.announcement import Endpoint
from gateway.model.api import ReplicasView, ScaleRequest, UpdateRequest
from gateway.model.group import SHOWN, renew_at
from gateway.model.job import JobState
from gateway.model.load import Load
from gateway.model.principal import Principal, Role
from gateway.model.session import Phase, Session
from gateway.store import events, loads, members, serving
from gateway.store.serving import Place
from gateway.store.views import view

Ask = Callable[..., Awaitable[Session]]


async def now(world: Any, session: Session) -> Session:
    return await sessions.get(world.gateway, world.caller, session.id)


async def jobs(world: Any, session: Session) -> list[Session]:
    found: list[Session] = await world.gateway.db.read(members.every, session.id)
    return found


async def places(world: Any, session: Session) -> tuple[Place, ...]:
    found = [one for one in await world.gateway.db.read(serving.serving) if one.session.id == session.id]
    return found[0].places if found else ()


def endpoint(job_id: int) -> Endpoint:
    return Endpoint(host="10.0.0.1", port=4000 + job_id, fingerprint=f"{job_id:064x}")


def up(world: Any, job_id: int) -> None:
    """The job runs, and its agent says that the service is there."""
    there = endpoint(job_id)
    if world.slurm.submitted()[job_id - 1][2].state is JobState.PENDING:
        world.slurm.start(job_id)
    world.slurm.announce(job_id, f"sluice/1 ready tcp={there.host}:{there.port} sha256={there.fingerprint}")
    world.agents.there.add(there)


def down(world: Any, job_id: int, state: JobState = JobState.FAILED, *, clearing: bool = False) -> None:
    world.agents.there.discard(endpoint(job_id))
    world.slurm.finish(job_id, state, clearing=clearing)


async def bring_up(world: Any) -> None:
    """Everything that is submitted becomes ready."""
    for _ in range(5):
        await world.turn()
        for _, _, seen in world.slurm.submitted():
            if not seen.state.ended and endpoint(seen.job_id) not in world.agents.there:
                up(world, seen.job_id)
    await world.turn(2)


async def use(world: Any, session: Session, **said: Any) -> None:
    row = Load.model_validate({"session_id": session.id, "writer": "w", "at": world.time(), **said})
    await world.gateway.db.write(loads.report, [row])


async def phases(world: Any, session: Session) -> list[str]:
    told = await world.gateway.db.read(events.after, world.caller, 0, session_id=session.id)
    return [event.data["phase"] for event in told if event.type == "session.phase"]


async def kinds(world: Any, session: Session) -> list[str]:
    told = await world.gateway.db.read(events.after, world.caller, 0, session_id=session.id)
    return [event.type for event in told]


def names(world: Any) -> list[str]:
    return sorted(seen.name for _, _, seen in world.slurm.submitted())


async def test_as_many_jobs_run_as_the_recipe_says_under_one_session(world: Any, ask: Ask) -> None:
    session = await ask("pool")
    await bring_up(world)
    assert names(world) == [f"sluice-{session.id.lower()}-{attempt}" for attempt in (1, 2)]
    assert len(await places(world, session)) == 2
    found = await jobs(world, session)
    assert [(one.phase, one.job.attempt, one.root) for one in found] == [
        (Phase.READY, 1, session.id),
        (Phase.READY, 2, session.id),
    ]
    scripts = [script.text for script, _, _ in world.slurm.submitted()]
    assert all(f"/{session.id}" in text for text in scripts)


async def test_a_job_that_dies_is_replaced_and_the_session_stays_ready(world: Any, ask: Ask) -> None:
    session = await ask("pool")
    await bring_up(world)
    down(world, 1)
    await world.turn()
    left = await now(world, session)
    assert (left.phase, left.job.job_id) == (Phase.READY, 2)
    assert [place.job_id for place in await places(world, session)] == [2]
    world.time.pass_(11)
    await bring_up(world)
    assert len(await places(world, session)) == 2
    assert len(names(world)) == 3
    assert "session.adopted" in await kinds(world, session)
    assert await phases(world, session) == ["queued", "starting", "ready"]


async def test_while_a_killed_job_is_cleared_away_the_session_is_another_one_already(world: Any, ask: Ask) -> None:
    session = await ask("pool")
    await bring_up(world)
    down(world, 1, JobState.CANCELLED, clearing=True)
    await world.turn()
    left = await now(world, session)
    assert (left.phase, left.job.job_id, left.endpoint) == (Phase.READY, 2, endpoint(2))
    await world.turn(2)
    assert [(one.job.job_id, one.phase) for one in await jobs(world, session)][:2] == [
        (1, Phase.STOPPING),
        (2, Phase.READY),
    ]
    down(world, 1, JobState.CANCELLED)
    await world.turn()
    ended = (await jobs(world, session))[0]
    assert (ended.phase, ended.reason) == (Phase.FAILED, "cancelled")
    assert await phases(world, session) == ["queued", "starting", "ready"]


async def test_all_jobs_that_are_cleared_away_together_leave_it_stopping(world: Any, ask: Ask) -> None:
    session = await ask("pool")
    await bring_up(world)
    for clearing in (True, False):
        for job_id in (1, 2):
            down(world, job_id, clearing=clearing)
        await world.turn(2)
    assert await phases(world, session) == ["queued", "starting", "ready", "stopping", "failed"]


async def test_a_requeued_job_makes_way_for_a_ready_one(world: Any, ask: Ask) -> None:
    session = await ask("pool")
    await bring_up(world)
    world.agents.there.discard(endpoint(1))
    world.slurm.requeue(1)
    await world.turn()
    assert (await now(world, session)).job.job_id == 2
    assert await phases(world, session) == ["queued", "starting", "ready"]


async def test_a_service_that_fails_again_and_again_is_started_ever_more_seldom(world: Any, ask: Ask) -> None:
    session = await ask("pool")
    await bring_up(world)
    for _ in range(60):
        for _, _, seen in world.slurm.submitted():
            if seen.job_id != (await now(world, session)).job.job_id and not seen.state.ended:
                down(world, seen.job_id)
        world.time.pass_(5)
        await world.turn(2)
    assert 3 < len(names(world)) < 10


async def test_when_the_last_one_fails_the_session_has_failed(world: Any, ask: Ask) -> None:
    session = await ask("pool")
    await bring_up(world)
    for job_id in (1, 2):
        down(world, job_id)
    await world.turn(2)
    ended = await now(world, session)
    assert (ended.phase, ended.reason) == (Phase.FAILED, "exit_code")
    assert [one.phase.ended for one in await jobs(world, session)] == [True, True]


async def test_more_requests_start_more_and_fewer_end_some_after_a_while(world: Any, ask: Ask) -> None:
    session = await ask("pool")
    await bring_up(world)
    await use(world, session, in_flight=8, waiting=30)
    await bring_up(world)
    assert len(await places(world, session)) == 3  # not more than `max`
    await use(world, session, in_flight=1, by_attempt={1: 0, 2: 0, 3: 1})
    world.time.pass_(20)
    await use(world, session, in_flight=1, by_attempt={1: 0, 2: 0, 3: 1})
    await world.turn(2)
    assert [place.draining for place in await places(world, session)] == [False] * 3
    for _ in range(8):
        world.time.pass_(10)
        await use(world, session, in_flight=1, by_attempt={1: 0, 2: 0, 3: 1})
        await world.turn()
    assert [(p.attempt, p.draining) for p in await places(world, session)] == [(1, False), (2, False), (3, True)]
    await use(world, session, in_flight=0)
    await world.turn(2)
    assert [place.attempt for place in await places(world, session)] == [1, 2]
    assert world.slurm.submitted()[2][2].state.ended
    assert len(names(world)) == 3


async def test_before_its_limit_a_job_is_renewed_and_the_session_is_ready_all_along(world: Any, ask: Ask) -> None:
    session = await ask("solo")
    await bring_up(world)
    world.time.pass_(1200)
    await world.turn(2)
    assert len(names(world)) == 1
    world.time.pass_(3600 - 300 - 1200)
    await world.turn()
    await world.loop.between()
    await world.loop.settle()
    script, _, booked = world.slurm.submitted()[1]
    assert (booked.name, booked.state) == (f"sluice-{session.id.lower()}-2", JobState.PENDING)
    assert script.options.begin_at == renew_at(await now(world, session))
    assert f"--begin=uts{int(script.options.begin_at.timestamp())}" in script.text
    await world.turn(3)
    assert len(names(world)) == 2
    world.time.pass_(200)
    await world.turn(2)
    assert names(world) == [f"sluice-{session.id.lower()}-{attempt}" for attempt in (1, 2)]
    assert [place.job_id for place in await places(world, session)] == [1]
    up(world, 2)
    await world.turn(3)
    renewed = await now(world, session)
    assert (renewed.phase, renewed.job.job_id, renewed.endpoint) == (Phase.READY, 2, endpoint(2))
    assert [(p.job_id, p.draining) for p in await places(world, session)] == [(2, False), (1, True)]
    await use(world, session, in_flight=1, by_attempt={1: 1})
    world.time.pass_(SHOWN.total_seconds())
    await world.turn(2)
    assert len(await places(world, session)) == 2, "what is in flight is waited for"
    await use(world, session)
    await world.turn(3)
    assert [place.job_id for place in await places(world, session)] == [2]
    assert world.slurm.submitted()[0][2].state.ended
    told = await world.gateway.db.read(events.after, world.caller, 0, session_id=session.id)
    assert await phases(world, session) == ["queued", "starting", "ready"]
    assert [e.data["job_before"] for e in told if e.type == "session.adopted"] == [1]


async def test_a_successor_that_waits_too_long_is_what_the_session_goes_on_as(world: Any, ask: Ask) -> None:
    session = await ask("solo")
    await bring_up(world)
    world.time.pass_(3600 - 100)
    await world.turn(2)
    down(world, 1, JobState.TIMEOUT)
    await world.turn(2)
    waiting = await now(world, session)
    assert (waiting.phase, waiting.job.job_id) == (Phase.QUEUED, 2)
    up(world, 2)
    await world.turn(2)
    assert (await now(world, session)).phase is Phase.READY


@pytest.mark.parametrize("state", [JobState.NODE_FAIL, JobState.PREEMPTED])
async def test_a_node_or_a_place_that_is_lost_costs_a_start_and_not_the_session(
    world: Any, ask: Ask, state: JobState
) -> None:
    session = await ask("solo")
    await bring_up(world)
    down(world, 1, state)
    await world.turn(2)
    assert not (await now(world, session)).phase.ended
    await bring_up(world)
    again = await now(world, session)
    assert (again.phase, again.job.job_id, again.job.attempt) == (Phase.READY, 2, 2)


async def test_a_preemption_that_is_announced_costs_nothing(world: Any, ask: Ask) -> None:
    session = await ask("solo")
    await bring_up(world)
    world.slurm.preempt(1, grace=120)
    await bring_up(world)
    assert [(p.job_id, p.draining) for p in await places(world, session)] == [(2, False), (1, True)]
    down(world, 1, JobState.PREEMPTED)
    await world.turn(2)
    assert [place.job_id for place in await places(world, session)] == [2]
    assert await phases(world, session) == ["queued", "starting", "ready"]


async def test_a_service_that_is_not_renewed_says_that_it_is_to_be_preempted(world: Any, ask: Ask) -> None:
    session = await ask("desk")
    await bring_up(world)
    world.slurm.preempt(1, grace=120)
    await world.turn(2)
    assert "preempted" in (await now(world, session)).conditions["TimeLimit"].message


async def test_a_service_that_is_not_renewed_ends_at_its_limit_and_says_so_before(world: Any, ask: Ask) -> None:
    session = await ask("desk")
    await bring_up(world)
    await use(world, session, in_flight=1, last_request_at=world.time())
    world.time.pass_(3600 - 300)
    await world.turn(2)
    told = (await now(world, session)).conditions["TimeLimit"]
    assert told.status
    assert "no other job follows" in told.message
    down(world, 1, JobState.TIMEOUT)
    await world.turn(2)
    ended = await now(world, session)
    assert (ended.phase, ended.reason) == (Phase.FAILED, "time_limit")
    assert len(names(world)) == 1


async def test_nobody_uses_it_so_it_has_no_job_until_a_request_comes(world: Any, ask: Ask) -> None:
    session = await ask("nap")
    await bring_up(world)
    world.agents.idle_seconds = 3.0
    world.time.pass_(30)
    await use(world, session, last_request_at=world.time())
    for _ in range(2):
        world.time.pass_(45)
        await world.turn(2)
    assert (await now(world, session)).phase is Phase.READY, "its agent says that it was used"
    world.agents.idle_seconds = 90.0
    await world.turn()
    asleep = await now(world, session)
    assert (asleep.phase, asleep.reason, asleep.endpoint) == (Phase.REQUESTED, "asleep", None)
    world.time.pass_(5)
    await world.turn(3)
    assert world.slurm.submitted()[0][2].state.ended
    world.time.pass_(3600)
    await world.turn(3)
    assert len(names(world)) == 1, "it sleeps"
    assert not (await now(world, session)).phase.ended
    woken = [await world.gateway.db.write(serving.wake, session.id, world.time()) for _ in range(5)]
    assert woken == [True, False, False, False, False]
    await world.loop.between()
    await world.loop.settle()
    assert len(names(world)) == 2, "several waiting requests are one start, and it waits for no turn"
    await bring_up(world)
    again = await now(world, session)
    assert (again.phase, again.job.attempt) == (Phase.READY, 2)


async def test_a_request_that_comes_while_the_last_job_drains_keeps_it(world: Any, ask: Ask) -> None:
    session = await ask("nap")
    await bring_up(world)
    world.agents.idle_seconds = 90.0
    world.time.pass_(61)
    await world.turn()
    assert (await now(world, session)).asleep_at is not None
    assert [place.draining for place in await places(world, session)] == [True]
    world.time.pass_(1)
    await use(world, session, in_flight=1, last_request_at=world.time(), by_attempt={1: 1})
    await world.turn(2)
    kept = await now(world, session)
    assert (kept.phase, kept.job.attempt, kept.asleep_at) == (Phase.READY, 1, None)
    assert [place.draining for place in await places(world, session)] == [False]
    world.time.pass_(10)
    await world.turn(2)
    assert len(names(world)) == 1


async def test_a_job_that_cannot_be_asked_counts_as_used(world: Any, ask: Ask) -> None:
    session = await ask("nap")
    await bring_up(world)
    world.agents.there.clear()
    for _ in range(3):
        world.time.pass_(100)
        await world.turn()
    assert (await now(world, session)).asleep_at is None


async def test_stopping_a_session_ends_every_job_of_it(world: Any, ask: Ask) -> None:
    session = await ask("pool")
    await bring_up(world)
    await sessions.stop(world.gateway, world.caller, session.id)
    await world.turn(4)
    ended = await now(world, session)
    assert (ended.phase, ended.reason) == (Phase.STOPPED, "stopped")
    assert all(seen.state.ended for _, _, seen in world.slurm.submitted())
    assert len(names(world)) == 2
    await sessions.delete(world.gateway, world.caller, session.id)
    assert await jobs(world, session) == []


async def test_an_idle_session_is_warned_of_kept_and_stopped_with_that_reason(world: Any, ask: Ask) -> None:
    session = await ask("desk")
    await bring_up(world)
    world.agents.idle_seconds = 7200.0
    await use(world, session, websockets=1)
    world.time.pass_(1000)
    await use(world, session, websockets=1)
    await world.turn()
    assert "Idle" not in (await now(world, session)).conditions, "somebody is connected"
    await use(world, session, last_request_at=world.time())
    world.time.pass_(481)
    await world.turn(2)
    assert (await now(world, session)).conditions["Idle"].status
    await scaling.extend(world.gateway, world.caller, session.id, timedelta(minutes=20))
    await scaling.extend(world.gateway, world.caller, session.id, timedelta(minutes=1))  # takes nothing away
    await world.turn()
    assert not (await now(world, session)).conditions["Idle"].status
    world.time.pass_(600)
    await world.turn()
    assert (await now(world, session)).stop_requested_at is None
    world.time.pass_(481)
    await world.turn(4)
    warned = await now(world, session)
    assert (warned.stop_requested_at, warned.conditions["Idle"].status) == (None, True)
    world.time.pass_(120)
    await world.turn(4)
    ended = await now(world, session)
    assert (ended.phase, ended.reason) == (Phase.STOPPED, "idle")


@pytest.mark.parametrize("crash", range(10))
async def test_a_server_that_dies_at_any_turn_starts_no_job_twice(world: Any, ask: Ask, crash: int) -> None:
    session = await ask("pool")
    for turn in range(12):
        if turn == crash:
            world.restarted()
            world.slurm.faults.lose_answers = 1
        await world.turn()
        world.time.pass_(2)
        for _, _, seen in world.slurm.submitted():
            if not seen.state.ended:
                up(world, seen.job_id)
        if turn == 7:
            down(world, 1)
    for _ in range(8):
        world.time.pass_(30)
        await bring_up(world)
    found = await places(world, session)
    assert len(found) == 2
    live = [seen for _, _, seen in world.slurm.submitted() if not seen.state.ended]
    assert sorted(seen.job_id for seen in live) == sorted(place.job_id for place in found)
    assert len(set(names(world))) == len(names(world))


async def test_scaling_by_hand_there_and_back(world: Any, ask: Ask) -> None:
    session = await ask("solo")
    await bring_up(world)
    scaled = await scaling.scale(world.gateway, world.caller, session.id, ScaleRequest(min=2))
    assert view(scaled).replicas == ReplicasView(min=2, max=2)
    await bring_up(world)
    assert len(await places(world, session)) == 2
    await scaling.scale(world.gateway, world.caller, session.id, ScaleRequest(min=1))
    world.time.pass_(601)
    await world.turn(2)
    assert [place.draining for place in await places(world, session)] == [False, True]
    world.time.pass_(10)
    await world.turn(4)
    assert [(place.attempt, place.draining) for place in await places(world, session)] == [(1, False)]
    assert len(names(world)) == 2
    assert [one.phase for one in await scaling.jobs(world.gateway, world.caller, session.id)] == ["ready", "stopped"]
    with pytest.raises(SessionNotFound):
        await scaling.scale(world.gateway, Principal(name="ben"), session.id, ScaleRequest(min=9))


async def test_an_update_takes_over_when_it_is_ready_and_not_before(world: Any, ask: Ask) -> None:
    session = await ask("pool")
    await bring_up(world)
    await scaling.update(world.gateway, world.caller, session.id, UpdateRequest(parameters={"size": 7}))
    await world.turn(2)
    assert [place.job_id for place in await places(world, session)] == [1, 2]
    assert (await now(world, session)).plan.env["SIZE"] == "1"
    for _ in range(6):
        await bring_up(world)
        assert sum(not place.draining for place in await places(world, session)) >= 2
        world.time.pass_(4)
    updated = await now(world, session)
    assert (updated.phase, updated.plan.env["SIZE"], updated.plan.replicas.min) == (Phase.READY, "7", 2)
    live = [one for one in await jobs(world, session) if not one.phase.ended]
    assert [one.plan.env["SIZE"] for one in live] == ["7", "7"]
    assert len(names(world)) == 4


async def test_an_update_that_does_not_become_ready_changes_nothing(world: Any, ask: Ask) -> None:
    session = await ask("solo")
    await bring_up(world)
    await scaling.update(world.gateway, world.caller, session.id, UpdateRequest(parameters={"size": 7}))
    await world.turn(2)
    world.slurm.start(2)
    down(world, 2)
    for _ in range(3):
        await world.turn()
        world.time.pass_(60)
    manager = Principal(name="may", projects={"default": Role.MANAGER}, unix={"c": "may"})
    with pytest.raises(Forbidden):
        await scaling.update(world.gateway, manager, session.id, UpdateRequest(parameters={"size": 9}))
    kept = await now(world, session)
    assert (kept.phase, kept.job.job_id, kept.plan.env["SIZE"]) == (Phase.READY, 1, "1")
    assert len(names(world)) == 2


async def test_an_ended_session_is_resumed_as_it_was(world: Any, ask: Ask) -> None:
    session = await ask("solo", parameters={"size": 3}, name="mine")
    await bring_up(world)
    with pytest.raises(Conflict):
        await scaling.resume(world.gateway, world.caller, session.id)
    await sessions.stop(world.gateway, world.caller, session.id)
    await world.turn(4)
    assert (await now(world, session)).phase is Phase.STOPPED
    await scaling.resume(world.gateway, world.caller, "mine")
    await bring_up(world)
    again = await now(world, session)
    assert (again.phase, again.job.attempt, again.plan.env["SIZE"], again.stop_requested_at) == (
        Phase.READY,
        2,
        "3",
        None,
    )
    assert [one.phase for one in await jobs(world, session)] == [Phase.STOPPED, Phase.READY]


async def test_a_name_that_was_taken_meanwhile_is_not_resumed(world: Any, ask: Ask) -> None:
    session = await ask("solo", name="mine")
    await sessions.stop(world.gateway, world.caller, session.id)
    await world.turn(2)
    await ask("solo", name="mine")
    with pytest.raises(Conflict, match="mine"):
        await scaling.resume(world.gateway, world.caller, session.id)


async def test_what_was_given_in_secret_for_one_run_is_not_there_for_another(world: Any, ask: Ask) -> None:
    session = await ask("login", parameters={"token": "s3cret"})
    await sessions.stop(world.gateway, world.caller, session.id)
    await world.turn(2)
    with pytest.raises(Conflict, match="HUB_TOKEN"):
        await scaling.resume(world.gateway, world.caller, session.id)


async def test_replicas_asked_for_at_launch(ask: Ask) -> None:
    session = await ask("solo", replicas=ScaleRequest(min=0, max=4), renew=False)
    assert (session.plan.replicas.min, session.plan.replicas.max, session.plan.lifecycle.renew) == (0, 4, False)
    with pytest.raises(Invalid):
        await ask("count", replicas=ScaleRequest(min=2))


async def test_kernels_at_work_put_the_end_off_and_what_cannot_be_asked_counts_as_work(world: Any, ask: Ask) -> None:
    session = await ask("lab")
    await bring_up(world)
    assert '"kernels": true' in world.slurm.submitted()[0][0].text
    world.agents.idle_seconds = 7200.0

    async def left(seconds: float) -> tuple[bool, bool]:
        """Whether its users are warned, and whether it is to end."""
        world.time.pass_(seconds)
        await world.turn(3)
        one = await now(world, session)
        return "Idle" in one.conditions and one.conditions["Idle"].status, one.stop_requested_at is not None

    assert await left(601) == (False, False), "its agent does not tell of kernels"
    world.agents.quiet = {"kernels": 30.0}
    assert await left(601) == (False, False), "they did something lately"
    there, world.agents.there = world.agents.there, set()
    assert await left(601) == (False, False), "it cannot be asked"
    world.agents.there, world.agents.quiet = there, {"kernels": 700.0}
    assert await left(300) == (False, False), "it has been at work, for all that is known"
    assert await left(181) == (True, False)
    world.agents.quiet = {"kernels": 5.0}
    assert await left(120) == (False, False), "they are at work again"
    world.agents.quiet = {"kernels": 700.0}
    assert await left(480) == (True, False)
    await left(120)
    await world.turn(2)
    ended = await now(world, session)
    assert (ended.phase, ended.reason) == (Phase.STOPPED, "idle")
