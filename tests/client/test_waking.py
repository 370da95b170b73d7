"""Requests to a session that sleeps: they wait while it starts, and are told so."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.model.session import Phase
from tests.client.fleet import Fleet, a_fleet
from tests.client.test_replicas import Replica


@pytest.fixture
async def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    async with a_fleet(tmp_path, {"progress_seconds": 0.05, **getattr(request, "param", {})}) as made:
        yield made


async def starts(fleet: Fleet) -> int:
    """How often the session was told to start."""
    told = await fleet.http.get("/v1/models")
    assert told.status_code == 200
    return len([event for event in await fleet.events() if event.type == "session.woken"])


async def test_all_wait_for_one_start(fleet: Fleet) -> None:
    session = await fleet.serve()
    route = await fleet.known(session, 0)
    assert [model["id"] for model in (await fleet.http.get("/v1/models")).json()["data"]] == ["tiny"]
    asking = [asyncio.create_task(fleet.ask()) for _ in range(5)]

    async def waiting() -> bool:
        return route.waiting == 5 and await starts(fleet) == 1

    await fleet.site.until(waiting, "they wait, and it is started")

    async def told() -> bool:
        load = (await fleet.loads()).get(session.id)
        return load is not None and load.waiting == 5

    await fleet.site.until(told, "the servers are told")
    asking[0].cancel()

    async def left() -> bool:
        return route.waiting == 4

    await fleet.site.until(left, "who is gone waits no more")
    await fleet.wakes(session, Replica("one"))
    assert {(await task).json()["name"] for task in asking[1:]} == {"one"}
    assert await starts(fleet) == 1


async def test_who_waits_for_a_stream_is_told_so_in_it(fleet: Fleet) -> None:
    session = await fleet.serve()
    one = Replica("one")
    one.go.set()
    async with fleet.http.stream("POST", "/v1/completions", json={"model": "tiny", "stream": True}) as stream:
        assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream")
        assert stream.headers["x-sluice-session"] == session.id
        lines = stream.aiter_lines()
        assert (await anext(lines)).startswith(": session demo is starting")
        await fleet.wakes(session, one)
        said = [line async for line in lines if line and not line.startswith(":")]
    assert said == ["data: one", "data: [DONE]"]
    assert (await fleet.ask()).status_code == 200


async def test_what_goes_wrong_later_is_told_in_the_stream(fleet: Fleet) -> None:
    session = await fleet.serve()
    one = Replica("one")
    one.status = "400 Bad Request"

    async with fleet.http.stream("POST", "/v1/completions", json={"model": "tiny", "stream": True}) as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        await fleet.change(session, 1, phase=Phase.STOPPED, ended_at=session.updated_at)
        said = [line async for line in lines if line.startswith("data: ")]
    error = json.loads(said[0].removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("not_ready", "service_unavailable_error")


async def test_an_error_of_the_service_becomes_an_event(fleet: Fleet) -> None:
    session = await fleet.serve(max_queue=1)

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        body = b'{"error":\n {"message": "too long"}}'
        writer.write(b"HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with fleet.http.stream("POST", "/v1/completions", json={"model": "tiny", "stream": True}) as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        full = await fleet.ask()
        assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded")
        await fleet.wakes(session, refuses)
        said = [line async for line in lines if line.startswith("data: ")]
    assert [json.loads(line.removeprefix("data: ")) for line in said] == [{"error": {"message": "too long"}}]


@pytest.mark.parametrize("fleet", [{"wake_seconds": 0.3}], indirect=True)
async def test_the_wait_has_an_end(fleet: Fleet) -> None:
    session = await fleet.serve()
    told = await fleet.ask()
    assert (told.status_code, told.json()["error"]["code"]) == (503, "not_ready")
    assert int(told.headers["retry-after"]) > 0
    assert "has not started within 0.3 seconds" in told.json()["error"]["message"]
    assert (await fleet.known(session, 0)).waiting == 0
