"""The data plane through a real agent process: its certificate, its relay, its control channel, its end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import EndpointUnavailable
from gateway.identity.pki import Pki
from gateway.model.principal import LOCAL_ADMIN
from gateway.network.agents import AgentChannel, AgentPath
from tests.agent.conftest import Authority, RunningAgent, end

#: Connections to a model server share one to its agent; any other session's are each its own.
KINDS = ("app", "chat")


@pytest.fixture
async def agent(plane: Any, tmp_path: Path) -> AsyncIterator[RunningAgent]:
    authority = Authority(tmp_path / "unused")
    authority.pem = plane.site.pki.ca_pem
    running = RunningAgent(tmp_path / "compute", authority)
    running.start(running.spec(service={}))
    yield running
    await asyncio.to_thread(end, running)


@pytest.mark.parametrize("recipe", KINDS)
async def test_a_session_is_reached_through_its_agent(plane: Any, agent: RunningAgent, recipe: str) -> None:
    endpoint = await asyncio.to_thread(agent.announced)
    session = await plane.site.ready(endpoint, recipe, name="web")
    about = (await plane.http.get("/s/web/about")).json()
    assert plane.site.token not in str(about)
    echoed = await plane.http.post("/s/web/echo", content=b"\0\xff" * 50_000)
    assert echoed.content == b"\0\xff" * 50_000
    async with plane.http.stream("GET", "/s/web/stream?n=5&gap=0.05") as response:
        assert [line async for line in response.aiter_lines()] == [f"piece {number}" for number in range(5)]
    size = 64 << 20
    got = 0
    async with plane.http.stream("GET", f"/s/web/big?size={size}") as response:
        async for data in response.aiter_bytes():
            got += len(data)
    assert got == size
    status = await plane.site.gateway.agents.status(endpoint)
    assert status.phase == "ready"
    assert status.requests >= 4
    assert (await plane.site.get("web")).id == session.id


@pytest.mark.parametrize("recipe", KINDS)
async def test_many_requests_at_once_all_come_through(plane: Any, agent: RunningAgent, recipe: str) -> None:
    await plane.site.ready(await asyncio.to_thread(agent.announced), recipe, name="web")

    async def one(number: int) -> str:
        body = f"{number}".encode() * 1000
        answer = await plane.http.post("/s/web/echo", content=body)
        return "whole" if answer.content == body else answer.text

    assert set(await asyncio.gather(*(one(number) for number in range(100)))) == {"whole"}, agent.log


@pytest.mark.parametrize("recipe", KINDS)
async def test_a_thousand_callers_who_come_at_once_are_all_answered(
    plane: Any, agent: RunningAgent, recipe: str
) -> None:
    await plane.site.ready(await asyncio.to_thread(agent.announced), recipe, name="web")
    host, _, port = plane.url.removeprefix("http://").partition(":")
    ask = f"GET /s/web/health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {plane.site.token}\r\n\r\n".encode()

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(ask)
        first = await reader.readline()
        writer.close()
        return first

    assert set(await asyncio.gather(*(one() for _ in range(1000)))) == {b"HTTP/1.1 200 OK\r\n"}, agent.log


async def test_another_gateway_is_not_let_in(plane: Any, agent: RunningAgent, tmp_path: Path) -> None:
    endpoint = await asyncio.to_thread(agent.announced)
    stranger = Pki(tmp_path / "stranger")
    with pytest.raises(EndpointUnavailable):
        await AgentChannel(AgentPath(lambda: stranger.client().file)).status(endpoint)
    with pytest.raises(EndpointUnavailable, match="TLS failed"):
        await plane.site.gateway.agents.status(endpoint.model_copy(update={"fingerprint": "0" * 64}))


async def test_a_stream_goes_on_while_another_service_renews_the_gateways_certificate(
    plane: Any, agent: RunningAgent
) -> None:
    await plane.site.ready(await asyncio.to_thread(agent.announced), "app", name="web")
    state = plane.site.gateway.settings.state_dir
    file = state / "pki" / "client.pem"

    async def one() -> int:
        return int((await plane.http.get("/s/web/health")).status_code)

    async with plane.http.stream("GET", "/s/web/stream?n=50&gap=0.1") as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "piece 0"
        before = file.read_bytes()
        file.unlink()
        assert Pki(state).client().file.read_bytes() != before
        # more than there are connections that wait, so that hands are shaken with the new one
        assert set(await asyncio.gather(*(one() for _ in range(80)))) == {200}, agent.log
        assert [line async for line in lines] == [f"piece {number}" for number in range(1, 50)]


async def test_a_job_that_is_gone_is_told(plane: Any, agent: RunningAgent) -> None:
    await plane.site.ready(await asyncio.to_thread(agent.announced), "app", name="web")
    assert (await plane.http.get("/s/web/health")).status_code == 200
    agent.process.kill()
    await asyncio.to_thread(agent.ends)

    async def withdrawn() -> bool:
        return not list(plane.data.routes.visible(LOCAL_ADMIN))

    await plane.site.until(withdrawn, "nobody asked, and the end was noticed")
    answer = await plane.http.get("/s/web/health")
    assert (answer.status_code, answer.json()["code"]) == (502, "endpoint_unavailable")
