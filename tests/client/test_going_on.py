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
from gateway.core import tokens, users
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


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A model that never ends its answer."""
    while await read_request(reader) is not None:
        writer.write(STREAM_HEAD + chunk(b'data: {"choices": []}\n\n'))
        await writer.drain()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(a_site(tmp_path))
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
        yield Place(site, (urls[0], urls[1]), ann)


async def until_ended(url: str, path: str, auth: dict[str, str], began: asyncio.Event, **options: Any) -> None:
    """An answer that begins, and then ends or breaks off."""
    method = "POST" if options else "GET"
    async with httpx.AsyncClient(base_url=url, headers=auth, timeout=WITHIN) as http:
        try:
            async with http.stream(method, path, **options) as answer:
                assert answer.status_code == 200, await answer.aread()
                async for _ in answer.aiter_bytes():
                    began.set()
        except httpx.RemoteProtocolError:
            return


async def until_closed(url: str, auth: dict[str, str], began: asyncio.Event) -> None:
    """A WebSocket that is open, and then told that it may not be any more."""
    address = f"{url.replace('http', 'ws', 1)}/s/web/ws"
    async with connect(address, additional_headers=auth, proxy=None) as socket:
        await socket.recv()
        began.set()
        await socket.wait_closed()
        assert socket.close_code == 1008


async def revoked(place: Place, who: Somebody) -> None:
    await tokens.revoke(place.site.gateway, LOCAL_ADMIN, who.token_id)


async def switched_off(place: Place, who: Somebody) -> None:
    await users.change(place.site.gateway, LOCAL_ADMIN, who.name, UserRequest(state="disabled"))


@pytest.mark.parametrize("way", [revoked, switched_off])
async def test_streams_and_sockets_end_on_every_replica(place: Place, way: Way) -> None:
    one, other = place.urls
    who = await a_token(place.site, "ann")
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
