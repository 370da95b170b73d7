"""Reads are kept by version and asked for all together: never late, whoever wrote, and never another's."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.core import events, sessions
from gateway.core.bell import Bell
from gateway.core.feed import Feed, hear
from gateway.core.reading import Reading, Shown
from gateway.errors import SessionNotFound
from gateway.model.api import SessionRequest, SessionView
from gateway.model.image import Image
from gateway.model.principal import Principal
from gateway.model.session import Phase, Session
from gateway.store import events as event_store
from gateway.store import images
from gateway.store import sessions as store
from gateway.store.database import Database
from gateway.store.sessions import SessionQuery
from gateway.store.views import view

ROOT = Principal(name="root", admin=True)


@pytest.fixture
async def session(world: Any) -> Session:
    image = Image(cluster="c", name="base", sha256="b" * 64, path="/i/base.sif", size=1, built_at=world.time())
    await world.gateway.db.write(images.save, image)
    request = SessionRequest(recipe="count", name="mine", labels={"a": "b"})
    return (await sessions.create(world.gateway, world.caller, request))[0]


@pytest.fixture
async def elsewhere(database_url: str) -> AsyncIterator[Database]:
    """The database as another server has it."""
    database = Database(database_url)
    await asyncio.to_thread(database.open)
    yield database
    database.close()


async def test_a_read_shows_what_was_written_before_it_on_any_server(
    world: Any, session: Session, elsewhere: Database
) -> None:
    here, there = (Reading(db) for db in (world.gateway.db, elsewhere))
    assert SessionView.model_validate_json((await here.one(world.caller, "mine")).body) == view(session)
    current = session
    for number in range(20):
        writer = (world.gateway.db, elsewhere)[number % 2]
        after = current.model_copy(update={"message": f"message {number}"})
        saved = await writer.write(store.save, current, after, world.time())
        assert saved is not None
        current = saved
        for reading in (here, there):
            for ref in (session.id, "mine"):
                shown = await reading.one(world.caller, ref)
                assert f"message {number}".encode() in shown.body
    ended = current.model_copy(update={"phase": Phase.STOPPED})
    await elsewhere.write(store.save, current, ended, world.time())
    await elsewhere.write(store.remove, ended)
    with pytest.raises(SessionNotFound):
        await here.one(world.caller, session.id)


async def test_a_page_shows_what_was_written_before_it_on_any_server(
    world: Any, session: Session, elsewhere: Database
) -> None:
    here, there = Reading(world.gateway.db), Reading(elsewhere)
    current = session
    for number in range(10):
        writer = (world.gateway.db, elsewhere)[number % 2]
        after = current.model_copy(update={"message": f"message {number}"})
        saved = await writer.write(store.save, current, after, world.time())
        assert saved is not None
        current = saved
        for reading in (here, there):
            [shown], _ = await reading.page(world.caller, SessionQuery())
            assert f"message {number}".encode() in shown.body
    ended = current.model_copy(update={"phase": Phase.STOPPED})
    await elsewhere.write(store.save, current, ended, world.time())
    assert (await here.page(world.caller, SessionQuery(ended=False)))[0] == []
    await elsewhere.write(store.remove, ended)
    assert (await here.page(world.caller, SessionQuery()))[0] == []


async def test_who_asks_together_gets_each_their_own(world: Any, session: Session) -> None:
    reading = Reading(world.gateway.db)
    other = Principal(name="ben")
    asks = [
        (world.caller, session.id),
        (other, session.id),
        (world.caller, "mine"),
        (other, "mine"),
        (ROOT, session.id),
        (world.caller, "nowhere"),
    ]
    answers = await asyncio.gather(*(reading.one(*ask) for ask in asks), return_exceptions=True)
    assert [isinstance(answer, Shown) for answer in answers] == [True, False, True, False, True, False]
    assert {type(answer) for answer in answers} == {Shown, SessionNotFound}
    page, following = await reading.page(other, SessionQuery())
    assert (page, following) == ([], None)


async def test_a_reader_who_goes_away_disturbs_nobody(world: Any, session: Session) -> None:
    reading = Reading(world.gateway.db)
    gone = asyncio.create_task(reading.one(world.caller, "mine"))
    staying = asyncio.create_task(reading.one(world.caller, session.id))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await staying).version == session.version


async def test_pages_show_what_single_reads_show(world: Any, session: Session) -> None:
    request = SessionRequest(recipe="count", name="other")
    second = (await sessions.create(world.gateway, world.caller, request))[0]
    reading = Reading(world.gateway.db)
    page, following = await reading.page(world.caller, SessionQuery(limit=1))
    assert ([SessionView.model_validate_json(one.body) for one in page], following) == ([view(second)], second.id)
    assert page == [await reading.one(world.caller, "other")]
    page, following = await reading.page(world.caller, SessionQuery(labels={"a": "b"}))
    assert ([SessionView.model_validate_json(one.body) for one in page], following) == ([view(session)], None)


async def test_what_is_written_on_another_server_is_heard_here(
    world: Any, session: Session, elsewhere: Database
) -> None:
    work, news = Bell(), Bell()
    hearing = asyncio.create_task(hear(world.gateway.db, news, work))
    feed = Feed(world.gateway.db, news)
    feeding = asyncio.create_task(feed.run())
    async with asyncio.timeout(60):
        await news.wait(20)
        while feed.newest is None:
            await feed.bell.wait(0.01)
        begin = feed.newest
        rung = work.listen()
        asked = session.model_copy(update={"stop_requested_at": world.time()})
        await elsewhere.write(store.save, session, asked, world.time())
        await rung.wait()
        while not (told := feed.after(world.caller, begin)):
            await feed.bell.wait(1)
    assert [(event.type, event.session_id) for event in told] == [("session.stop_requested", session.id)]
    assert feed.after(Principal(name="ben"), begin) == []
    assert feed.after(world.caller, begin, session_id="another") == []
    assert feed.after(world.caller, begin - 1) is None, "what is older than the feed is in the database"
    hearing.cancel()
    feeding.cancel()
    await asyncio.wait({hearing, feeding})
    assert feed.after(world.caller, begin) is None


async def test_followers_get_every_event_once_from_database_and_feed(
    world: Any, session: Session, elsewhere: Database
) -> None:
    gateway = world.gateway
    feeding = asyncio.create_task(gateway.feed.run())
    got: list[int] = []

    async def follow() -> None:
        told = events.follow(gateway, world.caller, session=session.id, until_end=True)
        got.extend([event.id async for event in told])

    followers = [asyncio.create_task(follow()) for _ in range(5)]
    current = session
    for number in range(10):
        after = current.model_copy(update={"reason": f"r{number}", "message": str(number)})
        saved = await (gateway.db, elsewhere)[number % 2].write(store.save, current, after, world.time())
        assert saved is not None
        current = saved
        gateway.news.ring()
    await sessions.stop(gateway, world.caller, session.id)
    current = await sessions.get(gateway, world.caller, session.id)
    ended = current.model_copy(update={"phase": Phase.STOPPED})
    await gateway.db.write(store.save, current, ended, world.time())
    gateway.news.ring()
    async with asyncio.timeout(60):
        await asyncio.gather(*followers)
    kept = [event.id for event in await gateway.db.read(event_store.after, world.caller, 0)]
    assert sorted(got) == sorted(kept * 5)
    feeding.cancel()
    await asyncio.wait({feeding})
