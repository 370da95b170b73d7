"""Answers that go on end soon after their caller may not have them any more, on every replica."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from gateway.client.app import parts as data_plane
from gateway.core import openings, projects, tokens, users
from gateway.core.sessions import create
from gateway.identity.opening import open_callers
from gateway.model.api import SessionRequest
from gateway.model.principal import LOCAL_ADMIN
from gateway.model.session import Phase
from gateway.model.user import UserRequest
from gateway.server.app import part
from gateway.web.app import Web
from gateway.web.serving import running
from tests.client.test_sessions import ws_service
from tests.people import Somebody, a_person, a_project, a_token, principal
from tests.services import STREAM_HEAD, Site, a_node, a_site, chunk, read_request, reconciling

WITHIN = 60
ASKED = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
Way = Callable[["Place", Somebody], Coroutine[Any, Any, None]]


@dataclass
class Place:
    """Two replicas of everything before one database, and ann, who has a model and an app."""

    site: Site
    urls: tuple[str, str]
    ann: Somebody
    policies: Path


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A model that never ends its answer."""
    while await read_request(reader) is not None:
        writer.write(STREAM_HEAD + chunk(b'data: {"choices": []}\n\n'))
        await writer.drain()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        policies = tmp_path / "policies"
        policies.mkdir()
        site = await stack.enter_async_context(a_site(tmp_path, policies=[policies]))
        await stack.enter_async_context(reconciling(site))
        await a_project(site, "alpha", shares=[{"cluster": "c", "account": "research"}])
        ann = await a_person(site, "ann", {"alpha": "member"})
        for name, recipe, service in (("llm", "chat", endless), ("web", "app", ws_service)):
            endpoint = await stack.enter_async_context(a_node(tmp_path, site.pki.ca_pem, service))
            request = SessionRequest.model_validate({"recipe": recipe, "name": name, "project": "alpha"})
            session, _ = await create(site.gateway, await principal(site, "ann"), request)
            job_id = await site.job_id(session.id)
            site.slurm.start(job_id)
            where = f"tcp={endpoint.host}:{endpoint.port} sha256={endpoint.fingerprint}"
            site.slurm.announce(job_id, f"sluice/1 ready {where}")
            await site.reaches(session.id, Phase.READY)
        first = Web([part(site.gateway), *data_plane(site.gateway)], open_callers(site.gateway))
        second = Web(data_plane(site.gateway), open_callers(site.gateway))
        urls = [await stack.enter_async_context(running(web, grace=1)) for web in (first, second)]
        yield Place(site, (urls[0], urls[1]), ann, policies)


async def until_ended(url: str, path: str, auth: dict[str, str], began: asyncio.Event, **options: Any) -> None:
    """An answer that begins, and then ends or breaks off."""
    method = "POST" if options else "GET"
    async with httpx.AsyncClient(base_url=url, headers=auth, timeout=WITHIN) as http:
        try:
            async with http.stream(method, path, **options) as answer:
                assert answer.status_code == 200, await answer.aread()
                async for _ in answer.aiter_bytes():
                    began.set()
        except (httpx.RemoteProtocolError, httpx.ReadError):
            return


async def until_closed(url: str, auth: dict[str, str], began: asyncio.Event) -> None:
    """A WebSocket that is open, and then told that it may not be any more."""
    address = f"{url.replace('http', 'ws', 1)}/s/web/ws"
    async with connect(address, additional_headers=auth, proxy=None, open_timeout=WITHIN) as socket:
        await socket.recv()
        began.set()
        await socket.wait_closed()
        assert socket.close_code == 1008


async def revoked(place: Place, who: Somebody) -> None:
    await tokens.revoke(place.site.gateway, LOCAL_ADMIN, who.token_id)


async def switched_off(place: Place, who: Somebody) -> None:
    await users.change(place.site.gateway, LOCAL_ADMIN, who.name, UserRequest(state="disabled"))


async def removed(place: Place, who: Somebody) -> None:
    await users.remove(place.site.gateway, LOCAL_ADMIN, who.name)


async def expired(place: Place, who: Somebody) -> None:
    """Its time is over: nobody does anything."""
    del place, who


WAYS: dict[Way, float] = {revoked: 30.0, switched_off: 30.0, removed: 30.0, expired: 30 / 86400}
"""With how long the token is good, in days: in the last case seconds, in which the answers have to begin."""


@pytest.mark.parametrize("way", WAYS)
async def test_streams_and_sockets_end_on_every_replica(place: Place, way: Way) -> None:
    one, other = place.urls
    who = await a_token(place.site, "ann", days=WAYS[way])
    begun = [asyncio.Event() for _ in range(5)]
    going = [
        asyncio.create_task(until_ended(one, "/api/v1/events?after=0", who.auth, begun[0])),
        asyncio.create_task(until_ended(one, "/v1/chat/completions", who.auth, begun[1], json=ASKED)),
        asyncio.create_task(until_ended(other, "/v1/chat/completions", who.auth, begun[2], json=ASKED)),
        asyncio.create_task(until_closed(one, who.auth, begun[3])),
        asyncio.create_task(until_closed(other, who.auth, begun[4])),
    ]
    stays = asyncio.Event()
    admin = asyncio.create_task(until_ended(one, "/api/v1/events?after=0", place.site.auth, stays))
    async with asyncio.timeout(WITHIN):
        await asyncio.gather(*(event.wait() for event in (*begun, stays)))
    await way(place, who)
    async with asyncio.timeout(WITHIN):
        await asyncio.gather(*going)
    assert not admin.done(), "nobody else is touched"
    admin.cancel()
    await asyncio.wait({admin})
    async with httpx.AsyncClient(headers=who.auth, timeout=WITHIN) as http:
        for url in place.urls:
            assert (await http.get(f"{url}/v1/models")).status_code in {401, 403}


async def until_all_ended(going: list[asyncio.Task[None]], begun: list[asyncio.Event], why: Callable[[], Any]) -> None:
    """They begin, something happens, and they end."""
    async with asyncio.timeout(WITHIN):
        await asyncio.gather(*(event.wait() for event in begun))
    done = why()
    if asyncio.iscoroutine(done):
        await done
    async with asyncio.timeout(WITHIN):
        await asyncio.gather(*going)


async def test_who_is_let_out_of_a_project_reads_nothing_on(place: Place) -> None:
    """Somebody else's model, asked as a member of its project."""
    bea = await a_person(place.site, "bea", {"alpha": "member"})
    begun = [asyncio.Event() for _ in range(3)]
    going = [
        asyncio.create_task(until_ended(url, "/v1/chat/completions", bea.auth, event, json=ASKED))
        for url, event in zip(place.urls, begun, strict=False)
    ]
    going.append(asyncio.create_task(until_ended(place.urls[0], "/api/v1/events?after=0", bea.auth, begun[2])))
    gateway = place.site.gateway
    await until_all_ended(going, begun, lambda: projects.remove_member(gateway, LOCAL_ADMIN, "alpha", "bea"))


async def test_a_policy_that_comes_into_force_cuts_what_it_forbids(place: Place) -> None:
    who = await a_token(place.site, "ann")
    begun = [asyncio.Event() for _ in range(4)]
    going = [
        asyncio.create_task(until_ended(place.urls[0], "/v1/chat/completions", who.auth, begun[0], json=ASKED)),
        asyncio.create_task(until_ended(place.urls[1], "/v1/chat/completions", who.auth, begun[1], json=ASKED)),
        asyncio.create_task(until_closed(place.urls[0], who.auth, begun[2])),
        asyncio.create_task(until_closed(place.urls[1], who.auth, begun[3])),
    ]
    closed = 'forbid (principal == User::"ann", action in [Action::"call", Action::"open"], resource);'
    file = place.policies / "site.cedar"
    await until_all_ended(going, begun, lambda: file.write_text(f'@id("closed")\n@allows("nothing now")\n{closed}'))


@pytest.mark.parametrize("way", [revoked, expired])
async def test_what_sluice_open_let_in_goes_with_the_token_that_opened_it(place: Place, way: Way) -> None:
    """The cookie of a browser is refused on every replica, and its WebSocket is closed."""
    gateway, (one, other) = place.site.gateway, place.urls
    ann = await principal(place.site, "ann")
    who = await a_token(place.site, "ann", days=WAYS[way])
    link = (await openings.make(gateway, ann.model_copy(update={"token": who.token_id}), "web")).url
    async with httpx.AsyncClient(base_url=one, timeout=WITHIN) as browser:
        cookie = (await browser.get(link)).headers["set-cookie"].split(";")[0]
        browser.cookies.clear()
        given, begun = {"Cookie": cookie}, [asyncio.Event(), asyncio.Event()]
        going = [
            asyncio.create_task(until_closed(url, {**given, "Origin": url}, event))
            for url, event in zip(place.urls, begun, strict=True)
        ]
        await until_all_ended(going, begun, lambda: way(place, who))
        for url in (one, other):
            assert (await browser.get(f"{url}/s/web/", headers=given)).status_code == 401
        again = (await openings.make(gateway, ann, "web")).url  # by no token of ours: good as long as its owner is
        assert (await browser.get(again)).status_code == 303
