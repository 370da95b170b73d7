"""Where sessions are served: every ready job of each, what a request would start, and how busy all of that is."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from gateway.model.announcement import Endpoint
from gateway.model.job import JobRole, job_name
from gateway.model.jobspec import HttpProbe
from gateway.model.load import SILENT_AFTER
from gateway.model.plan import Plan, PlannedReplicas, PlannedService
from gateway.model.principal import Principal
from gateway.model.session import Phase, Session
from gateway.store import events, sessions
from gateway.store.database import Database
from gateway.store.loads import Load, loads, report
from gateway.store.serving import serving, wake
from gateway.store.sessions import SessionQuery

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANN = Principal(name="ann")
ROOT = Principal(name="root", admin=True)
Build = Callable[..., Session]


def endpoint(port: int) -> Endpoint:
    return Endpoint(host="10.0.0.1", port=port, fingerprint="a" * 64)


def service(plan: Plan, replicas: PlannedReplicas | None = None) -> Plan:
    return plan.model_copy(update={"kind": "service", "service": PlannedService(probe=HttpProbe(), replicas=replicas)})


def ready(session: Session, port: int, **changes: object) -> Session:
    job = session.job.model_copy(update={"job_id": port})
    told = {"phase": Phase.READY, "ready_at": NOW, "endpoint": endpoint(port), "job": job}
    return session.model_copy(update={**told, **changes})


def member(session: Session, build: Build, number: int) -> Session:
    """One more job of the session, in a row of its own."""
    row = build(number)
    name = job_name(session.id, number)
    job = row.job.model_copy(update={"attempt": number, "name": name, "role": JobRole.REPLICA})
    return row.model_copy(update={"parent": session.id, "name": name, "plan": session.plan, "job": job})


async def test_every_ready_job_of_a_session_is_a_place(database: Database, build: Build) -> None:
    first = build(1)
    first = ready(first.model_copy(update={"plan": service(first.plan)}), 1)
    second = ready(member(first, build, 2), 2, drain_at=NOW)
    waiting = member(first, build, 3)
    for one in (first, second, waiting):
        await database.write(sessions.add, one)
    (found,) = await database.read(serving)
    assert found.session.id == first.id
    assert [(p.attempt, p.job_id, p.endpoint.port, p.draining, p.primary) for p in found.places] == [
        (1, 1, 1, False, True),
        (2, 2, 2, True, False),
    ]
    assert not found.wakes


async def test_a_job_of_a_session_is_shown_to_nobody_as_a_session(database: Database, build: Build) -> None:
    first = build(1)
    second = member(first, build, 2)
    for one in (first, second):
        await database.write(sessions.add, one)
    for caller in (ANN, ROOT):
        assert [one.id for one in (await database.read(sessions.find, caller, SessionQuery()))[0]] == [first.id]
        assert await database.read(sessions.current, caller, [second.id, second.name]) == {}
    assert {one.id for one in await database.read(sessions.live, "c")} == {first.id, second.id}
    starting = second.model_copy(update={"phase": Phase.STARTING})
    await database.write(sessions.save, second, starting, NOW)
    told = await database.read(events.after, ANN, 0)
    assert {event.session_id for event in told} == {first.id}
    assert [event.type for event in told] == ["session.created", "session.job", "session.job"]
    assert told[-1].data["attempt"] == 2


async def test_everybody_who_keeps_routes_hears_of_a_job_that_drains(database: Database, build: Build) -> None:
    first = build(1)
    second = ready(member(first, build, 2), 2)
    for one in (first, second):
        await database.write(sessions.add, one)
    before = await database.read(events.newest)
    await database.write(sessions.save, second, second.model_copy(update={"drain_at": NOW}), NOW)
    (told,) = await database.read(events.after, ANN, before)
    assert (told.type, told.session_id, told.data["attempt"], told.data["draining"]) == (
        "session.job",
        first.id,
        2,
        True,
    )


async def test_jobs_are_forgotten_with_their_session(database: Database, build: Build) -> None:
    first = build(1, phase=Phase.STOPPED)
    second = member(first, build, 2).model_copy(update={"phase": Phase.STOPPED})
    for one in (first, second):
        await database.write(sessions.add, one)
    await database.write(sessions.remove, first)
    assert await database.read(sessions.load, [first.id, second.id]) == {}


async def test_a_request_wakes_a_session_that_sleeps_and_does_so_once(database: Database, build: Build) -> None:
    session = build(1)
    plan = service(session.plan, PlannedReplicas(min=0))
    session = session.model_copy(update={"plan": plan, "asleep_at": NOW, "reason": "asleep"})
    await database.write(sessions.add, session)
    assert await database.read(sessions.asked, "c") == []
    (found,) = await database.read(serving)
    assert (found.places, found.wakes) == ((), True)
    later = NOW + timedelta(seconds=5)
    woken = [await database.write(wake, session.id, later) for _ in range(3)]
    assert woken == [True, False, False]
    assert [one.id for one in await database.read(sessions.asked, "c")] == [session.id]
    told = await database.read(events.after, ANN, 0)
    assert [event.type for event in told].count("session.woken") == 1
    (found,) = await database.read(serving)
    assert found.wakes


async def test_one_that_is_told_to_stop_wakes_no_more(database: Database, build: Build) -> None:
    session = build(1)
    plan = service(session.plan, PlannedReplicas(min=0))
    changes = {"plan": plan, "asleep_at": NOW, "stop_requested_at": NOW}
    await database.write(sessions.add, session.model_copy(update=changes))
    assert not await database.write(wake, session.id, NOW)
    assert await database.read(serving) == []


async def test_loads_of_several_writers_are_summed_and_those_of_the_silent_are_not(
    database: Database, build: Build
) -> None:
    session = build(1)
    await database.write(sessions.add, session)

    def load(writer: str, seconds: float, **said: object) -> Load:
        at = NOW + timedelta(seconds=seconds)
        return Load.model_validate({"session_id": session.id, "writer": writer, "at": at, **said})

    asked = NOW + timedelta(seconds=1)
    await database.write(report, [load("a", 0, in_flight=9), load("b", 0, in_flight=2, by_attempt={1: 2})])
    await database.write(report, [load("a", 1, in_flight=3, waiting=1, last_request_at=asked, by_attempt={1: 1, 2: 2})])
    stranger = Load(session_id="0" * 26, writer="a", at=NOW)
    await database.write(report, [stranger])
    found = await database.read(loads, asked)
    assert set(found) == {session.id}
    one = found[session.id]
    assert (one.in_flight, one.waiting, one.last_request_at, one.by_attempt) == (5, 1, asked, {1: 3, 2: 2})
    after = NOW + SILENT_AFTER
    quiet = (await database.read(loads, after))[session.id]
    assert (quiet.in_flight, quiet.waiting, quiet.by_attempt) == (3, 1, {1: 1, 2: 2})
    assert not (await database.read(loads, after + SILENT_AFTER))[session.id].used
