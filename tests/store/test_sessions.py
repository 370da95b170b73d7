"""Sessions in the database: nobody sees another's, no write is lost or doubled, every change tells its event."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import IntegrityError

from gateway.errors import Conflict, SessionNotFound
from gateway.model.principal import Principal, Role
from gateway.model.session import Phase, Session
from gateway.store import events, sessions
from gateway.store.database import Database
from gateway.store.sessions import SessionQuery

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANN, BEN, ROOT = Principal(name="ann"), Principal(name="ben"), Principal(name="root", admin=True)
Build = Callable[..., Session]


async def test_a_session_comes_back_as_it_went_in(database: Database, build: Build) -> None:
    session = build(1)
    await database.write(sessions.add, session)
    assert await database.read(sessions.get, ANN, session.id) == session
    assert await database.read(sessions.get, ANN, "echo-1") == session


async def test_another_user_sees_nothing_and_cannot_tell_it_from_nothing(database: Database, build: Build) -> None:
    await database.write(sessions.add, build(1))
    for ref in ("echo-1", build(1).id, "nowhere"):
        with pytest.raises(SessionNotFound, match=ref):
            await database.read(sessions.get, BEN, ref)
    assert (await database.read(sessions.find, BEN, SessionQuery()))[0] == []
    assert len((await database.read(sessions.find, ROOT, SessionQuery()))[0]) == 1
    assert await database.read(events.after, BEN, 0) == []


async def test_what_the_same_person_may_see_is_looked_at_every_time(database: Database, build: Build) -> None:
    """Roles and tokens come and go: a statement that was built for somebody serves nobody who sees less, or more."""
    for number, owner, project in ((1, "ann", "default"), (2, "ben", "default"), (3, "ben", "other")):
        await database.write(sessions.add, build(number, owner=owner, project=project))
    ids = {number: build(number).id for number in (1, 2, 3)}
    sights: list[tuple[Principal, set[int]]] = [
        (ANN, {1}),
        (Principal(name="ann", projects={"default": Role.VIEWER}), {1, 2}),
        (Principal(name="ann", projects={"default": Role.VIEWER, "other": Role.MEMBER}), {1, 2, 3}),
        (Principal(name="ann", projects={"other": Role.MEMBER}), {1, 3}),
        (Principal(name="ann", projects={"other": Role.MEMBER}, project="other"), {3}),
        (Principal(name="ann", admin=True), {1, 2, 3}),
        (Principal(name="ann", operator=True), {1, 2, 3}),
        (Principal(name="ann", admin=True, session=ids[2]), {2}),
        (Principal(name="ann", admin=True, session=ids[3]), {3}),
        (BEN, {2, 3}),
    ]
    for caller, seen in sights * 2:
        wanted = [(ids[number], 1) for number in sorted(seen, reverse=True)]
        assert await database.read(sessions.page, caller, SessionQuery()) == (wanted, None)
        assert await database.read(sessions.current, caller, ids.values()) == {one: (one, n) for one, n in wanted}
        for cursor in ids.values():
            after = await database.read(sessions.page, caller, SessionQuery(cursor=cursor, limit=1))
            assert after[0] == [one for one in wanted if one[0] < cursor][:1]


async def test_a_write_on_an_old_version_is_refused(database: Database, build: Build) -> None:
    session = build(1)
    await database.write(sessions.add, session)
    stopping = session.model_copy(update={"stop_requested_at": NOW})
    queued = session.model_copy(update={"phase": Phase.QUEUED})
    first = await database.write(sessions.save, session, stopping, NOW)
    assert first is not None
    assert await database.write(sessions.save, session, queued, NOW) is None
    kept = await database.read(sessions.get, ANN, session.id)
    assert (kept.phase, kept.stop_requested_at, kept.version) == (Phase.REQUESTED, NOW, 2)


async def test_every_change_tells_its_event_in_order(database: Database, build: Build) -> None:
    session = build(1)
    await database.write(sessions.add, session)
    job = session.job.model_copy(update={"job_id": 7})
    after = session.model_copy(update={"phase": Phase.QUEUED, "reason": "Priority", "job": job})
    await database.write(sessions.save, session, after, NOW)
    told = await database.read(events.after, ANN, 0)
    assert [event.type for event in told] == ["session.created", "session.phase", "session.submitted"]
    assert told[1].data == {"phase": "queued", "before": "requested", "reason": "Priority", "message": ""}
    assert [e.id for e in await database.read(events.after, ANN, told[0].id)] == [e.id for e in told[1:]]


async def test_pages_hold_everything_once(database: Database, build: Build) -> None:
    for number in range(7):
        await database.write(sessions.add, build(number))
    seen: list[str] = []
    cursor = None
    while True:
        query = SessionQuery(limit=3, cursor=cursor)
        page, cursor = await database.read(sessions.find, ANN, query)
        seen += [session.name for session in page]
        if cursor is None:
            break
    assert seen == [f"echo-{n}" for n in reversed(range(7))]


async def test_filters(database: Database, build: Build) -> None:
    await database.write(sessions.add, build(1))
    await database.write(sessions.add, build(2, phase=Phase.FAILED))
    for query, names in (
        (SessionQuery(ended=True), ["echo-2"]),
        (SessionQuery(ended=False), ["echo-1"]),
        (SessionQuery(phase=Phase.FAILED), ["echo-2"]),
        (SessionQuery(name="echo-1"), ["echo-1"]),
        (SessionQuery(recipe="other"), []),
    ):
        found, _ = await database.read(sessions.find, ANN, query)
        assert [session.name for session in found] == names


async def test_two_live_sessions_of_one_owner_have_two_names(database: Database, build: Build) -> None:
    await database.write(sessions.add, build(1, name="same", phase=Phase.STOPPED))
    await database.write(sessions.add, build(2, name="same"))
    await database.write(sessions.add, build(3, owner="ben", name="same"))
    with pytest.raises(IntegrityError):
        await database.write(sessions.add, build(4, name="same"))
    assert (await database.read(sessions.get, ANN, "same")).id == build(2).id


async def test_a_live_session_cannot_be_forgotten(database: Database, build: Build) -> None:
    live, ended = build(1), build(2, phase=Phase.STOPPED)
    for session in (live, ended):
        await database.write(sessions.add, session)
    with pytest.raises(Conflict):
        await database.write(sessions.remove, live)
    await database.write(sessions.remove, ended)
    with pytest.raises(SessionNotFound, match="already"):
        await database.write(sessions.remove, ended)  # asked twice at once: the second finds that it is done
    with pytest.raises(SessionNotFound):
        await database.read(sessions.get, ANN, ended.id)


async def test_the_key_of_a_forgotten_session_makes_no_new_one(database: Database, build: Build) -> None:
    ended = build(1, phase=Phase.STOPPED)
    await database.write(sessions.add, ended, key="k", digest="d")
    await database.write(sessions.remove, ended)
    with pytest.raises(Conflict, match="was deleted"):
        await database.write(sessions.add, build(2), key="k", digest="d")
    await database.write(sessions.add, build(3), key="other", digest="d")


async def test_live_sessions_that_nobody_wrote_are_not_read_again(database: Database, build: Build) -> None:
    for number in range(4):
        await database.write(sessions.add, build(number))
    first = {session.id: session for session in await database.read(sessions.live, "c")}
    stale = {key: session.model_copy(update={"message": "kept"}) for key, session in first.items()}
    one, two, three, _ = first.values()
    await database.write(sessions.save, one, one.model_copy(update={"phase": Phase.QUEUED}), NOW)
    await database.write(sessions.save, two, two.model_copy(update={"phase": Phase.FAILED}), NOW)
    await database.write(sessions.add, build(9))
    again = await database.read(sessions.live, "c", stale)
    assert [(session.id, session.phase, session.message) for session in again] == [
        (one.id, Phase.QUEUED, ""),
        (three.id, Phase.REQUESTED, "kept"),
        (build(3).id, Phase.REQUESTED, "kept"),
        (build(9).id, Phase.REQUESTED, ""),
    ]
    await database.write(sessions.save, three, three.model_copy(update={"phase": Phase.STOPPED}), NOW)
    assert three.id not in {session.id for session in await database.read(sessions.live, "c", stale)}
