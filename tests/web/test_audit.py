"""The page of the audit log: who sees which rows, filters, older rows, and nothing of a row read as HTML."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from gateway.core import audit as log
from gateway.identity.opening import open_callers
from gateway.model.principal import LOCAL_ADMIN
from gateway.web import audit
from gateway.web.app import Web
from gateway.web.serving import running
from tests.people import Somebody, a_person, a_project, principal
from tests.services import Site, a_site

BAD = '<script>alert("x")</script>'


class Reader:
    """The page, as somebody sees it."""

    def __init__(self, http: httpx.AsyncClient, site: Site, people: dict[str, Somebody]) -> None:
        self.http, self.site, self.people = http, site, people

    async def page(self, by: str, **query: str) -> httpx.Response:
        return await self.http.get("/audit", params=query, headers=self.people[by].auth)

    async def objects(self, by: str, **query: str) -> list[str]:
        """The objects of the rows of things, in order."""
        answer = await self.page(by, **query)
        assert answer.status_code == 200, answer.text
        return re.findall(r"<td>thing (\S+)<td>", answer.text)

    async def write(self, who: str, number: int, action: str = "thing.do") -> None:
        caller = await principal(self.site, who)
        told = log.by(self.site.gateway, caller)
        details = {"said": BAD}
        await self.site.gateway.db.write(log.record, told, action, "thing", f"t{number}", details=details)


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[Reader]:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(a_site(tmp_path))
        web = Web([audit.part(site.gateway)], open_callers(site.gateway))
        url = await stack.enter_async_context(running(web))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60))
        await a_project(site, "physics")
        people = {
            "ann": await a_person(site, "ann", {"physics": "member"}),
            "ben": await a_person(site, "ben", {"physics": "manager"}),
            "ola": await a_person(site, "ola", {}, operator=True),
        }
        yield Reader(http, site, people)


async def test_operators_see_all_rows_and_others_those_of_their_own_doing(reader: Reader) -> None:
    await reader.write("ann", 1)
    await reader.write("ben", 2)
    assert await reader.objects("ola") == ["t2", "t1"]
    assert await reader.objects("ann") == ["t1"]
    assert await reader.objects("ben") == ["t2"]
    head = await log.head(reader.site.gateway, LOCAL_ADMIN)
    pages = {who: (await reader.page(who)).text for who in reader.people}
    assert {who: head.hash in text.partition("<table>")[0] for who, text in pages.items()} == {
        "ann": False,
        "ben": False,
        "ola": True,
    }
    assert (await reader.http.get("/audit")).status_code == 401
    assert (await reader.http.get("/audit/x", headers=reader.people["ola"].auth)).status_code == 404
    assert (await reader.http.post("/audit", headers=reader.people["ola"].auth)).status_code == 422


async def test_filters_and_older_rows(reader: Reader) -> None:
    for number in range(audit.ROWS + 5):
        await reader.write("ann", number, "thing.one" if number % 2 else "thing.two")
    first = await reader.page("ola", who="ann", action="", decision="allow")
    found = re.findall(r"<td>thing (\S+)<td>", first.text)
    assert found == [f"t{number}" for number in range(audit.ROWS + 4, 4, -1)]
    [older] = re.findall(r'<a href="/audit\?([^"]+)">Older</a>', first.text)
    second = await reader.http.get(f"/audit?{older.replace('&amp;', '&')}", headers=reader.people["ola"].auth)
    assert re.findall(r"<td>thing (\S+)<td>", second.text)[:5] == ["t4", "t3", "t2", "t1", "t0"]
    assert ">Newest</a>" in second.text
    assert await reader.objects("ola", object="t7") == ["t7"]
    assert len(await reader.objects("ola", action="thing.one")) == (audit.ROWS + 5) // 2
    later = f"{datetime.now(UTC).year + 1}-01-01T00:00"
    assert await reader.objects("ola", since=later) == []
    assert await reader.objects("ola", until=later, object="t7") == ["t7"]
    for bad in ({"since": "soon"}, {"cursor": "x"}, {"cursor": "0"}, {"decision": "maybe"}, {"cursor": "9" * 30}):
        answer = await reader.page("ola", **bad)
        assert (answer.status_code, "text/html" in answer.headers["content-type"]) == (422, True), bad


async def test_nothing_of_a_row_or_a_filter_is_read_as_html(reader: Reader) -> None:
    await reader.write("ann", 1)
    answer = await reader.page("ola", who="ann", object='"><script>x</script>')
    assert "<script" not in answer.text
    answer = await reader.page("ola")
    assert "<script" not in answer.text
    assert "&lt;script&gt;" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
