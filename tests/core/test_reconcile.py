"""The loop with everything real but Slurm: nothing is lost, nothing runs twice, nothing ends that has not."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.core import sessions
from gateway.core.bell import Bell
from gateway.errors import Conflict, ImageMissing, ParameterInvalid, RecipeNotFound, SessionNotFound
from gateway.model.announcement import Endpoint
from gateway.model.api import SessionRequest
from gateway.model.job import JobState
from gateway.model.principal import Principal
from gateway.model.session import Phase, Session

ENDPOINT = Endpoint(host="10.0.0.1", port=4000, fingerprint="a" * 64)
READY = f"sluice/1 ready tcp={ENDPOINT.host}:{ENDPOINT.port} sha256={ENDPOINT.fingerprint}"
Ask = Callable[..., Awaitable[Session]]


async def now(world: Any, session: Session) -> Session:
    return await sessions.get(world.gateway, world.caller, session.id)


async def test_a_batch_session_from_request_to_success(world: Any, ask: Ask) -> None:
    session = await ask()
    await world.turn()
    assert (await now(world, session)).phase is Phase.QUEUED
    ((script, user, seen),) = world.slurm.submitted()
    assert (user, seen.name) == (session.unix_user, session.job.name)
    assert script.options.name == session.job.name
    world.slurm.start(seen.job_id)
    await world.turn()
    assert (await now(world, session)).word == "running"
    world.slurm.finish(seen.job_id)
    await world.turn()
    done = await now(world, session)
    assert (done.phase, done.reason, done.job.exit_code) == (Phase.SUCCEEDED, "finished", 0)


async def test_a_service_is_ready_when_its_agent_answers_and_not_before(world: Any, ask: Ask) -> None:
    session = await ask("echo")
    await world.turn()
    job_id = world.slurm.submitted()[0][2].job_id
    world.slurm.start(job_id)
    await world.turn()
    world.slurm.announce(job_id, READY)
    await world.turn()
    waiting = await now(world, session)
    assert waiting.phase is Phase.STARTING
    assert not waiting.conditions["EndpointReachable"].status
    world.agents.there.add(ENDPOINT)
    await world.turn()
    ready = await now(world, session)
    assert (ready.phase, ready.endpoint) == (Phase.READY, ENDPOINT)


async def test_a_lost_answer_is_looked_up_and_the_job_runs_once(world: Any, ask: Ask) -> None:
    session = await ask()
    world.slurm.faults.lose_answers = 1
    await world.turn()
    assert (await now(world, session)).job.job_id is None
    await world.turn(3)
    assert (await now(world, session)).job.job_id == 1
    assert len(world.slurm.submitted()) == 1


async def test_a_lost_request_is_sent_again_after_slurm_denied_it_twice(world: Any, ask: Ask) -> None:
    session = await ask()
    world.slurm.faults.lose_requests = 1
    await world.turn(3)
    for seconds in (60, 35, 10):
        world.time.pass_(seconds)
        await world.turn(2)
        assert len(world.slurm.submitted()) == 0
    world.time.pass_(11)
    await world.turn(3)
    assert len(world.slurm.submitted()) == 1
    assert (await now(world, session)).job.job_id == 1


async def test_a_crash_between_submit_and_record_doubles_nothing(world: Any, ask: Ask) -> None:
    """The intent is written, the job is in Slurm, and the process dies before it hears so."""
    session = await ask()
    current = await now(world, session)
    intent = current.model_copy(update={"job": current.job.model_copy(update={"intent_at": world.time()})})
    from gateway.store import sessions as store  # noqa: PLC0415 - only this test writes behind the loop's back

    await world.gateway.db.write(store.save, current, intent, world.time())
    await world.slurm.submit(await sessions.script(world.gateway, world.caller, session.id), session.unix_user)
    world.restarted()
    await world.turn(4)
    assert (await now(world, session)).job.job_id == 1
    assert len(world.slurm.submitted(session.job.name)) == 1


async def test_slurm_away_changes_a_condition_and_everything_goes_on_afterwards(world: Any, ask: Ask) -> None:
    session = await ask()
    await world.turn()
    world.slurm.start(1)
    await world.turn()
    world.slurm.faults.unavailable = True
    world.time.pass_(3600)
    await world.turn(5)
    away = await now(world, session)
    assert away.phase is Phase.READY
    assert not away.conditions["SchedulerReachable"].status
    world.slurm.faults.unavailable = False
    await world.turn()
    back = await now(world, session)
    assert back.conditions["SchedulerReachable"].status
    assert back.phase is Phase.READY


async def test_without_accounting_the_jobs_in_the_queue_are_followed_all_the_same(world: Any, ask: Ask) -> None:
    session = await ask()
    await world.turn()
    world.slurm.faults.accounting_down = True
    world.time.pass_(60)
    world.slurm.start(1)
    await world.turn()
    running = await now(world, session)
    assert running.word == "running"
    assert "SchedulerReachable" not in running.conditions or running.conditions["SchedulerReachable"].status


async def test_a_limit_is_waited_for_with_slurms_words(world: Any, ask: Ask) -> None:
    world.slurm._max_submit = 1
    first, second = await ask(), await ask()
    await world.turn(2)
    waiting = [s for s in (await now(world, first), await now(world, second)) if s.job.job_id is None]
    assert len(waiting) == 1
    assert waiting[0].phase is Phase.REQUESTED
    assert "AssocMaxSubmitJobLimit" in waiting[0].message
    world.slurm.finish(1)
    world.time.pass_(60)
    await world.turn(2)
    assert (await now(world, waiting[0])).job.job_id is not None


async def test_a_refused_job_fails_with_slurms_words(world: Any, ask: Ask) -> None:
    session = await ask(resources={"partition": "nowhere"})
    await world.turn()
    refused = await now(world, session)
    assert (refused.phase, refused.reason) == (Phase.FAILED, "submit_refused")
    assert "Invalid partition name" in refused.message


@pytest.mark.parametrize("when", ["requested", "queued", "running", "away"])
async def test_stop_works_in_every_phase_and_twice(world: Any, ask: Ask, when: str) -> None:
    session = await ask()
    if when != "requested":
        await world.turn()
    if when in {"running", "away"}:
        world.slurm.start(1)
        await world.turn()
    world.slurm.faults.unavailable = when == "away"
    for _ in range(2):
        await sessions.stop(world.gateway, world.caller, session.id)
    await world.turn(2)
    world.slurm.faults.unavailable = False
    await world.turn(3)
    stopped = await now(world, session)
    assert (stopped.phase, stopped.reason) == (Phase.STOPPED, "stopped")
    assert all(seen.state.ended for _, _, seen in world.slurm.submitted())


@pytest.mark.parametrize("taken", [True, False])
async def test_a_stop_during_an_unanswered_submit_ends_what_there_is(world: Any, ask: Ask, taken: bool) -> None:
    session = await ask()
    world.slurm.faults.lose_answers, world.slurm.faults.lose_requests = int(taken), int(not taken)
    await world.turn()
    world.slurm.faults.unavailable = True
    await sessions.stop(world.gateway, world.caller, session.id)
    await world.turn(2)
    assert not (await now(world, session)).phase.ended
    world.slurm.faults.unavailable = False
    for _ in range(16):
        world.time.pass_(10)
        await world.turn()
    assert (await now(world, session)).phase is Phase.STOPPED
    assert [seen.state for _, _, seen in world.slurm.submitted()] == ([JobState.CANCELLED] if taken else [])


async def test_a_program_that_does_not_end_when_told_is_ended(world: Any, ask: Ask) -> None:
    session = await ask("echo")
    await world.turn()
    world.slurm.start(1)
    world.slurm.faults.deaf_scripts = True
    await sessions.stop(world.gateway, world.caller, session.id)
    await world.turn(3)
    assert (await now(world, session)).phase is Phase.STOPPING
    assert (world.slurm.calls["terminate"], world.slurm.calls["cancel"]) == (1, 0)
    world.time.pass_(60)
    await world.turn(2)
    assert (await now(world, session)).phase is Phase.STOPPED
    assert world.slurm.submitted()[0][2].state is JobState.CANCELLED


async def test_a_job_that_left_the_queue_is_asked_for_in_accounting(world: Any, ask: Ask) -> None:
    session = await ask()
    await world.turn()
    world.slurm.start(1)
    world.slurm.finish(1, exit_code=4)
    world.slurm.purge(1)
    world.time.pass_(3600)
    await world.turn()
    failed = await now(world, session)
    assert (failed.phase, failed.reason) == (Phase.FAILED, "exit_code")


async def test_a_requeued_service_comes_back_with_its_new_endpoint(world: Any, ask: Ask) -> None:
    session = await ask("echo")
    world.agents.there.add(ENDPOINT)
    await world.turn()
    world.slurm.start(1)
    world.slurm.announce(1, READY)
    await world.turn()
    assert (await now(world, session)).phase is Phase.READY
    world.slurm.requeue(1)
    await world.turn()
    queued = await now(world, session)
    assert (queued.phase, queued.endpoint) == (Phase.QUEUED, None)
    moved = ENDPOINT.model_copy(update={"host": "10.0.0.2"})
    world.agents.there = {moved}
    world.slurm.start(1, "node2")
    world.slurm.announce(1, READY.replace(ENDPOINT.host, moved.host))
    await world.turn()
    assert (await now(world, session)).endpoint == moved


async def test_reading_asks_slurm_nothing(world: Any, ask: Ask) -> None:
    session = await ask()
    before = world.slurm.calls.copy()
    for _ in range(10):
        await now(world, session)
        await sessions.script(world.gateway, world.caller, session.id)
    assert world.slurm.calls == before


async def test_one_question_for_all(world: Any, ask: Ask) -> None:
    for _ in range(5):
        await ask()
    await world.turn()
    before = world.slurm.calls["look"]
    await world.turn()
    assert world.slurm.calls["look"] == before + 1


async def test_the_same_key_gives_the_same_session(world: Any, ask: Ask) -> None:
    first, again = await ask(key="k"), await ask(key="k")
    assert first.id == again.id
    with pytest.raises(Conflict):
        await ask(key="k", parameters={"to": 5})
    await world.turn()
    assert len(world.slurm.submitted()) == 1


async def test_secrets_are_staged_for_the_agent_and_stand_nowhere_else(world: Any, ask: Ask) -> None:
    session = await ask("login", parameters={"token": "hunter2"})
    staged = world.home / "sessions" / session.id / "secrets.json"
    await world.turn()
    assert staged.stat().st_mode & 0o777 == 0o600
    assert "hunter2" in staged.read_text()
    script = world.slurm.submitted()[0][0]
    assert "hunter2" not in script.model_dump_json()
    assert "hunter2" not in (await now(world, session)).model_dump_json()
    assert b"hunter2" not in b"".join(p.read_bytes() for p in world.home.parent.glob("sluice.db*"))


async def test_bad_requests_are_told_apart(ask: Ask) -> None:
    with pytest.raises(RecipeNotFound, match="cuont") as unknown:
        await ask("cuont")
    assert "count" in unknown.value.hint
    with pytest.raises(ParameterInvalid, match="to"):
        await ask(parameters={"to": 99})
    await ask(name="mine")
    with pytest.raises(Conflict, match="mine"):
        await ask(name="mine")


async def test_a_missing_image_says_how_to_build_it(world: Any) -> None:
    with pytest.raises(ImageMissing, match="base") as missing:
        await sessions.create(world.gateway, world.caller, SessionRequest(recipe="count"))
    assert "sluice image build base" in missing.value.hint


async def test_another_user_can_do_nothing(world: Any, ask: Ask) -> None:
    session = await ask(name="mine")
    other = Principal(name="ben")
    for use in (sessions.get, sessions.stop, sessions.delete, sessions.script):
        for ref in (session.id, "mine"):
            with pytest.raises(SessionNotFound):
                await use(world.gateway, other, ref)


async def test_between_two_polls_new_sessions_are_submitted_without_a_question(world: Any, ask: Ask) -> None:
    await world.turn()
    before = world.slurm.calls.copy()
    session = await ask()
    assert not await world.loop.between()
    await world.loop.settle()
    assert (await now(world, session)).phase is Phase.QUEUED
    assert world.slurm.calls - before == {"submit": 1}
    await sessions.stop(world.gateway, world.caller, session.id)
    assert await world.loop.between(), "a stop needs to know how the job is: it waits for the next look"
    assert world.slurm.calls - before == {"submit": 1}


async def test_while_slurm_is_away_nothing_is_tried_between_two_polls(world: Any, ask: Ask) -> None:
    world.slurm.faults.unavailable = True
    await world.turn()
    await ask()
    before = world.slurm.calls.copy()
    await world.loop.between()
    await world.loop.settle()
    assert world.slurm.calls == before


async def test_a_ring_while_nobody_waits_is_heard() -> None:
    bell = Bell()
    heard = bell.listen()
    bell.ring()
    await bell.wait(60, heard)
