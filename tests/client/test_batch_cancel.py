"""A batch that is cancelled: who asks its lines hears of it at once, in whichever process it was cancelled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.client.batch import asks_no_more
from gateway.core import tasks
from gateway.core.bell import Bell
from gateway.core.context import Gateway
from gateway.core.feed import hear
from gateway.store.database import Database
from tests.client.fleet import a_fleet
from tests.client.test_batches import Model, simple
from tests.services import ADMIN
from tests.waiting import until_so


class Heeded(Bell):
    """A bell that knows how often somebody began to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    async def wait(self, at_most: float | None, since: asyncio.Event | None = None) -> None:
        self.waits += 1
        await super().wait(at_most, since)


@asynccontextmanager
async def another_process(gateway: Gateway) -> AsyncIterator[Gateway]:
    """The same database, as another process has it open and hears of it."""
    database, news, work = Database(gateway.settings.database), Heeded(), Bell()
    await asyncio.to_thread(database.open)
    listens = work.listen()
    hearing = asyncio.create_task(hear(database, news, work))
    try:
        await listens.wait()  # from here on it is told
        yield replace(gateway, db=database, news=news, work=work)
    finally:
        hearing.cancel()
        await asyncio.wait({hearing})
        await asyncio.to_thread(database.close)


@pytest.mark.parametrize("here", [True, False], ids=["in this process", "in another"])
async def test_who_asks_for_lines_hears_of_a_cancel_without_looking_by_a_clock(
    tmp_path: Path, database_url: str, *, here: bool
) -> None:
    async with a_fleet(tmp_path, database=database_url, works=False) as fleet:
        await fleet.serve(Model())
        batch = await simple(fleet, "demo", {"prompt": "p1"})
        async with another_process(fleet.site.gateway) as theirs:
            news = theirs.news
            assert isinstance(news, Heeded)
            asks = asyncio.create_task(asks_no_more(theirs, batch.id))
            try:
                await until_so(lambda: news.waits, what="it has looked, and waits for news")
                assert not asks.done()
                await tasks.cancel(theirs if here else fleet.site.gateway, ADMIN, batch.id)
                await asyncio.wait_for(asks, 120)
            finally:
                asks.cancel()
                await asyncio.wait({asks})
