"""What a browser was let into by `sluice open` ends with the sign-in in which it was opened, at once and everywhere."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Connection

from gateway.client.app import part as data_plane
from gateway.client.app import plane_of
from gateway.core import openings, sessions, users
from gateway.errors import Unauthenticated
from gateway.identity.opening import open_callers
from gateway.model.api import SessionRequest
from gateway.model.principal import LOCAL_ADMIN, Opened, Principal, SignedIn
from gateway.model.session import Phase
from gateway.model.token import digest
from gateway.model.user import UserRequest
from gateway.server.app import part as server
from gateway.store import signins
from gateway.store.signins import Browser
from gateway.web import signin
from gateway.web.app import Web
from gateway.web.caller import COOKIE, csrf_of
from gateway.web.serving import running
from tests.people import a_person, a_project, principal
from tests.services import Site, a_node, a_site, answer, read_request

ISSUER = "https://idp.example.org"


@dataclass
class House:
    """A gateway whose data plane runs twice, and a ready session of ann's."""

    site: Site
    planes: list[httpx.AsyncClient]

    async def opened(self, by: SignedIn | None) -> str:
        """The cookie of a browser that ann let in, signed in so."""
        ann = await self.signed_in(by)
        url = (await openings.make(self.site.gateway, ann, "web")).url
        entered = await self.planes[0].get(url)
        assert entered.status_code == 303, entered.text
        self.planes[0].cookies.clear()
        return entered.headers["set-cookie"].split(";")[0]

    async def signed_in(self, by: SignedIn | None) -> Principal:
        return (await principal(self.site, "ann")).model_copy(update={"sign_in": by})

    async def seen(self, cookie: str) -> list[int]:
        """What each replica answers to who shows it."""
        return [(await plane.get("/s/web/", headers={"Cookie": cookie})).status_code for plane in self.planes]

    async def write(self, act: Callable[[Connection], object]) -> None:
        await self.site.gateway.db.write(act)
        await users.settled()

    async def a_browser(self, sid: str | None = "one") -> SignedIn:
        """Ann is signed in in a browser, as the pages of a sign-in keep it."""
        key, now = digest(f"cookie of {sid}"), self.site.gateway.clock()
        kept = Browser(
            digest=key,
            user_id=(await principal(self.site, "ann")).id,
            issuer=ISSUER,
            subject="s-1",
            sid=sid,
            id_token="an.id.token",
            created_at=now,
            expires_at=now + timedelta(hours=1),
        )
        await self.site.gateway.db.write(signins.add, kept)
        return SignedIn(ISSUER, "s-1", sid, key)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await read_request(reader) is not None:
        writer.write(answer({"it": "works"}))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(a_site(tmp_path))
        await a_project(site, "alpha", shares=[{"cluster": "c", "account": "research"}])
        await a_person(site, "ann", {"alpha": "member"})
        webs = [
            [server(site.gateway), signin.part(site.gateway), data_plane(plane_of(site.gateway))],
            [data_plane(plane_of(site.gateway))],
        ]
        planes = []
        for parts in webs:
            url = await stack.enter_async_context(running(Web(parts, open_callers(site.gateway)), grace=1))
            planes.append(await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60)))
        node = await stack.enter_async_context(a_node(tmp_path, site.pki.ca_pem, serve))
        asked = SessionRequest(recipe="app", name="web")
        session, _ = await sessions.create(site.gateway, await principal(site, "ann"), asked)
        job = await site.job_id(session.id)
        site.slurm.start(job)
        site.slurm.announce(job, f"sluice/1 ready tcp={node.host}:{node.port} sha256={node.fingerprint}")
        await site.reaches(session.id, Phase.READY)
        yield House(site, planes)


IN, OUT = [200, 200], [401, 401]


async def test_signing_out_in_a_browser_ends_what_was_opened_there(house: House) -> None:
    one, two = await house.a_browser("one"), await house.a_browser("two")
    first, second = await house.opened(one), await house.opened(two)
    assert (await house.seen(first), await house.seen(second)) == (IN, IN)
    value = "cookie of one"
    shown = {"Cookie": f"{COOKIE}={value}", "Origin": str(house.planes[0].base_url).rstrip("/")}
    left = await house.planes[0].post("/auth/logout", headers=shown, data={"csrf": csrf_of(value)})
    assert left.status_code == 303, left.text
    await users.settled()
    assert (await house.seen(first), await house.seen(second)) == (OUT, IN)


async def test_signing_out_at_the_provider_ends_what_was_opened(house: House) -> None:
    of_one = await house.opened(await house.a_browser("one"))
    terminals = {sid: await house.opened(SignedIn(ISSUER, "s-1", sid)) for sid in ("one", "two", None)}
    assert [await house.seen(cookie) for cookie in (of_one, *terminals.values())] == [IN] * 4
    await house.write(partial(signins.end_at_provider, issuer=ISSUER, subject="s-1", sid="one"))
    assert await house.seen(of_one) == OUT
    assert {sid: await house.seen(cookie) for sid, cookie in terminals.items()} == {"one": OUT, "two": IN, None: OUT}
    await house.write(partial(signins.end_at_provider, issuer=ISSUER, subject="s-1", sid=None))
    assert await house.seen(terminals["two"]) == OUT


async def test_what_was_opened_by_munge_ends_with_that_and_with_nothing_of_others(house: House) -> None:
    cookie = await house.opened(SignedIn("munge:c", "ann"))
    await house.write(partial(signins.end_at_provider, issuer=ISSUER, subject="ann", sid=None))
    assert await house.seen(cookie) == IN
    await house.write(partial(signins.end_at_provider, issuer="munge:c", subject="ann", sid=None))
    assert await house.seen(cookie) == OUT


async def test_what_was_opened_by_no_sign_in_ends_with_the_account(house: House) -> None:
    """On a machine where the kernel says who somebody is, there is nothing to sign out of."""
    cookie = await house.opened(None)
    assert await house.seen(cookie) == IN
    await users.change(house.site.gateway, LOCAL_ADMIN, "ann", UserRequest(state="disabled"))
    assert await house.seen(cookie) == [403, 403]


async def test_a_cookie_without_its_sign_in_lets_nobody_in(house: House) -> None:
    """A key of somebody else's sign-in, or of none, is no key."""
    await a_person(house.site, "ben", {"alpha": "member"})
    mine = await house.a_browser("one")
    stranger = Opened("S", "ben", None, mine.key)
    callers = open_callers(house.site.gateway)
    for opened in (stranger, stranger._replace(owner="ann", sign_in=digest("none"))):
        with pytest.raises(Unauthenticated, match="has ended"):
            await callers.by_opened(opened)
    assert (await callers.by_opened(stranger._replace(owner="ann"))).name == "ann"
