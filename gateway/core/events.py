"""Events as a stream: what is in the database first, then what comes, until the reader has enough."""

from collections.abc import AsyncIterator
from functools import partial
from itertools import count

from gateway.core.context import Gateway
from gateway.model.principal import Principal
from gateway.store import events as store
from gateway.store import sessions
from gateway.store.events import Event

LOOK_AGAIN = 1.0
NOW_AND_THEN = 10  # rounds: a session may be deleted without a word


async def follow(
    gateway: Gateway,
    caller: Principal,
    *,
    session: str | None = None,
    after: int = 0,
    until_end: bool = False,
    wait: bool = True,
) -> AsyncIterator[Event]:
    """The caller's events with ids above `after`, of one session or of all, as they are written.

    With `until_end` the stream of a session ends when the session has ended and all of its events are out; without
    `wait` any stream ends when all that is there is out.
    The newest events are those that the feed has read for everybody; what is older is read from the database.
    """
    session_id = (await gateway.db.read(sessions.get, caller, session)).id if session else None
    feed, told = gateway.feed, True
    for round_ in count():
        heard, news = feed.bell.listen(), gateway.news.listen()
        ended = False
        if until_end and session_id is not None and (told or round_ % NOW_AND_THEN == 0):
            held = await gateway.db.read(sessions.reread, session_id)
            ended = held is None or held.phase.ended
        found = feed.after(caller, after, session_id) if wait and not ended else None
        fed = found is not None
        if found is None:
            found = await gateway.db.read(partial(store.after, caller=caller, last=after, session_id=session_id))
        for event in found:
            after = event.id
            yield event
        if (ended or not wait) and len(found) < store.PAGE:
            return
        told = bool(found) or not fed
        if not found:
            await (feed.bell.wait(LOOK_AGAIN, heard) if fed else gateway.news.wait(LOOK_AGAIN, news))


async def newest(gateway: Gateway) -> int:
    """The id of the newest event: where a reader starts who wants only what comes."""
    return await gateway.db.read(store.newest)
