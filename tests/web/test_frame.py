"""The frame around services, over real HTTP: who may call, how errors look, what is logged and counted, how it ends."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import structlog
from fastapi import Request
from prometheus_client import generate_latest
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from gateway.errors import SchedulerUnavailable, SettingsInvalid, SluiceError, Unauthenticated, tree
from gateway.model.health import Pulse
from gateway.model.principal import Opened, Origin, Principal
from gateway.settings import ServeSettings
from gateway.web import streams
from gateway.web.app import Part, Web, api
from gateway.web.caller import Caller
from gateway.web.errors import status_of
from gateway.web.log import hide_secrets
from gateway.web.serving import listen, running

TOKEN = "t0ken"
AUTH = {"Authorization": f"Bearer {TOKEN}"}


class OneToken:
    def recall(self, text: str) -> Principal | None:
        return Principal(name="ada") if text == TOKEN else None

    async def authenticate(self, text: str, origin: Origin = "api") -> Principal:
        if text != TOKEN:
            raise Unauthenticated("not valid here")
        return Principal(name="ada", origin=origin)

    async def by_cookie(self, value: str) -> Principal:
        return await self.authenticate(value, "browser")

    def recall_opened(self, opened: Opened) -> Principal | None:
        return Principal(name=opened.owner, session=opened.session)

    async def by_opened(self, opened: Opened) -> Principal:
        return Principal(name=opened.owner, session=opened.session)

    async def by_peer(self, uid: int) -> Principal:
        return Principal(name=f"u{uid}")


class Thing(BaseModel):
    size: int


async def ticks(last: int) -> AsyncIterator[streams.Sent]:
    for number in range(last + 1, last + 4):
        yield streams.Sent(data={"n": number}, event="tick", id=str(number))
    if last >= 100:
        raise SchedulerUnavailable("gone")
    await asyncio.Event().wait()


def part(started: list[str] | None = None) -> Part:
    app = api(title="Things", prefix="/things", open_paths=frozenset({"/things/live"}))

    @app.get("/things/live")
    async def live() -> str:
        return "ok"

    @app.get("/things/me")
    async def me(caller: Caller) -> Principal:
        return caller

    @app.post("/things")
    async def make(thing: Thing) -> Thing:
        return thing

    @app.get("/things/broken")
    async def broken() -> None:
        raise ZeroDivisionError("secret detail")

    @app.get("/things/away")
    async def away() -> None:
        raise SchedulerUnavailable("slurmctld does not answer", hint="wait", cluster="local")

    @app.get("/things/large")
    async def large(size: int, parts: int = 1) -> StreamingResponse:
        return StreamingResponse(iter([b"x" * size] * parts))

    @app.get("/things/ticks")
    async def stream(request: Request, last: int = 0) -> StreamingResponse:
        return streams.events(request, ticks(last), heartbeat=0.05)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        if started is not None:
            started.append("in")
        yield
        if started is not None:
            started.append("out")

    return Part(
        name="things",
        prefixes=("/things",),
        app=app,
        open=frozenset({"/things/live"}),
        browser=lambda path: path in {"/things/me", "/things"},
        lifespan=lifespan,
    )


@pytest.fixture
async def web() -> AsyncIterator[tuple[httpx.AsyncClient, Web]]:
    frame = Web([part()], OneToken())
    async with running(frame) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        yield client, frame


Running = tuple[httpx.AsyncClient, Web]


def problem(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["status"] == response.status_code
    assert found["request_id"] == response.headers["x-request-id"]
    assert found["instance"] == response.request.url.path
    return found


@pytest.mark.parametrize(
    "path", ["/things/me", "/things/none", "/", "/elsewhere", "/things/openapi.json", "/things/docs"]
)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}, {"Authorization": "Digest x"}])
async def test_nothing_is_open_without_the_token(web: Running, path: str, headers: dict[str, str]) -> None:
    response = await web[0].get(path, headers=headers)
    assert problem(response)["code"] == "unauthenticated"
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Basic" if path == "/things/me" else "Bearer")


async def test_liveness_is(web: Running) -> None:
    assert (await web[0].get("/things/live")).json() == "ok"


async def test_the_caller_reaches_the_route(web: Running) -> None:
    assert (await web[0].get("/things/me", headers=AUTH)).json()["name"] == "ada"


@pytest.mark.parametrize(
    ("origin", "status"), [(None, 200), ("http://evil.example", 403), ("null", 403), ("same", 200)]
)
async def test_a_browser_shows_the_token_as_a_password_but_not_for_other_sites(
    web: Running, origin: str | None, status: int
) -> None:
    client = web[0]
    word = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    headers = {"Authorization": f"Basic {word}"}
    assert (await client.get("/things/me", headers=headers)).status_code == 200
    assert (await client.get("/things/away", headers=headers)).status_code == 401
    if origin is not None:
        headers["Origin"] = str(client.base_url).rstrip("/") if origin == "same" else origin
    assert (await client.post("/things", headers=headers, json={"size": 1})).status_code == status


async def test_a_password_that_is_not_the_token_is_none(web: Running) -> None:
    for word in (base64.b64encode(b"me:wrong").decode(), "!!", base64.b64encode(b"\xff:\xff").decode()):
        assert (await web[0].get("/things/me", headers={"Authorization": f"Basic {word}"})).status_code == 401


async def test_errors_are_problem_details(web: Running) -> None:
    client = web[0]
    assert problem(await client.get("/things/none", headers=AUTH))["code"] == "not_found"
    assert problem(await client.get("/nowhere", headers=AUTH))["code"] == "not_found"
    assert problem(await client.delete("/things", headers=AUTH))["status"] == 405
    away = await client.get("/things/away", headers=AUTH)
    found = problem(away)
    assert (found["code"], found["retryable"], found["hint"]) == ("scheduler_unavailable", True, "wait")
    assert found["cluster"] == "local"
    assert away.status_code == 503
    assert int(away.headers["retry-after"]) > 0


async def test_a_bad_field_is_named(web: Running) -> None:
    found = problem(await web[0].post("/things", headers=AUTH, json={"size": "large"}))
    assert found["errors"][0]["field"] == "size"
    assert "size" in found["detail"]
    assert problem(await web[0].post("/things", headers=AUTH, content=b"{"))["status"] == 422


async def test_a_fault_of_ours_tells_nothing_but_where_to_look(web: Running) -> None:
    response = await web[0].get("/things/broken", headers=AUTH)
    assert problem(response)["status"] == 500
    assert "secret" not in response.text


async def test_a_request_keeps_the_id_that_it_came_with(web: Running) -> None:
    client = web[0]
    mine = await client.get("/things/me", headers=AUTH | {"X-Request-Id": "abc-1"})
    assert mine.headers["x-request-id"] == "abc-1"
    odd = await client.get("/things/me", headers=AUTH | {"X-Request-Id": "a b"})
    assert odd.headers["x-request-id"] != "a b"


async def test_a_body_is_bounded_whatever_its_length_says(web: Running) -> None:
    async def drip() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * (1 << 16)

    client = web[0]
    assert problem(await client.post("/things", headers=AUTH, content=b" " * (2 << 20)))["status"] == 413
    assert problem(await client.post("/things", headers=AUTH, content=drip()))["status"] == 413


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}])
@pytest.mark.parametrize(("size", "parts"), [(0, 1), (1, 3), (1 << 16, 40), (3_000_000, 2)])
async def test_answers_arrive_whole(web: Running, headers: dict[str, str], size: int, parts: int) -> None:
    asked = [web[0].get(f"/things/large?size={size}&parts={parts}", headers=AUTH | headers) for _ in range(5)]
    assert [len(answer.content) for answer in await asyncio.gather(*asked)] == [size * parts] * 5


async def test_answers_carry_security_headers(web: Running) -> None:
    headers = (await web[0].get("/things/me", headers=AUTH)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]


async def test_requests_are_logged_with_their_id_and_counted_by_route(web: Running) -> None:
    client, frame = web
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        response = await client.get("/things/me", headers=AUTH)
        await client.get("/things/live")
    told = [line for line in lines if line["event"] == "request" and line["log_level"] == "info"]
    assert [(line["path"], line["status"], line["caller"]) for line in told] == [("/things/me", 200, "ada")]
    assert told[0]["request_id"] == response.headers["x-request-id"]
    counted = generate_latest(frame.metrics.registry).decode()
    assert 'sluice_http_requests_total{method="GET",route="/things/me",service="things",status="200"} 1.0' in counted


async def lines_of(client: httpx.AsyncClient, path: str, enough: int) -> list[str]:
    found: list[str] = []
    async with client.stream("GET", path, headers=AUTH) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            found.append(line)
            if sum(line.startswith(("data:", ":")) for line in found) >= enough:
                break
    return found


async def test_events_come_as_they_happen_with_signs_of_life_between(web: Running) -> None:
    found = await lines_of(web[0], "/things/ticks", 5)
    assert [line for line in found if line.startswith("id:")] == ["id: 1", "id: 2", "id: 3"]
    assert found.count(": still here") >= 2


async def test_an_error_in_a_stream_is_its_last_event(web: Running) -> None:
    found = await lines_of(web[0], "/things/ticks?last=100", 99)
    assert found[-3] == "event: error"
    assert '"scheduler_unavailable"' in found[-2]


async def test_streams_end_cleanly_when_the_service_stops() -> None:
    order: list[str] = []
    frame = Web([part(order)], OneToken())
    async with httpx.AsyncClient(timeout=60) as client:
        async with running(frame) as url:
            request = client.build_request("GET", f"{url}/things/ticks", headers=AUTH)
            response = await client.send(request, stream=True)
            lines = response.aiter_lines()
            while await anext(lines) != "id: 3":
                pass
        assert [line async for line in lines][-1] == ""
    assert order == ["in", "out"]


async def test_a_service_that_cannot_start_says_so() -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        raise OSError("no disk")
        yield

    frame = Web([Part(name="x", prefixes=("/x",), app=api(title="x", prefix="/x"), lifespan=failing)], OneToken())
    with pytest.raises(SettingsInvalid, match="did not start"):
        async with running(frame):
            pass


@pytest.mark.parametrize(
    ("pulse", "status"),
    [(Pulse(well=True, says="a little late"), 200), (Pulse(well=False, says="ok, but not at all"), 503)],
)
async def test_readiness_concludes_nothing_from_words(pulse: Pulse, status: int) -> None:
    async def check() -> Mapping[str, Pulse]:
        return {"thing": pulse}

    frame = Web([Part(name="x", prefixes=("/x",), app=api(title="x", prefix="/x"), check=check)], OneToken())
    async with running(frame) as url, httpx.AsyncClient(base_url=url, headers=AUTH, timeout=60) as client:
        answer = await client.get("/health/ready")
    word = "ok" if pulse.well else "degraded"
    assert (answer.status_code, answer.json()["status"], answer.json()["checks"]) == (
        status,
        word,
        {"thing": pulse.says},
    )


def test_a_port_that_is_taken_is_told_at_once() -> None:
    first = listen("127.0.0.1", 0)
    with pytest.raises(SettingsInvalid, match="cannot listen"):
        listen("127.0.0.1", first.getsockname()[1])
    first.close()


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status(kind: type[SluiceError]) -> None:
    assert 400 <= status_of(kind) < 600


def test_a_line_does_not_say_what_it_calls_secret() -> None:
    told = {"event": "x", "token": "a", "tokens": 5, "headers": {"Authorization": "b", "Accept": "c"}, "name": "hub"}
    said = hide_secrets(None, "", told)
    assert said == {**told, "token": "***", "headers": {"Authorization": "***", "Accept": "c"}}


async def test_who_asks_too_often_is_told_when_to_come_again() -> None:
    async with (
        running(Web([part()], OneToken(), ServeSettings(requests_per_minute=3))) as url,
        httpx.AsyncClient(base_url=url, headers=AUTH, timeout=60) as client,
    ):
        answers = [await client.get("/things/me") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        told = answers[-1]
        assert told.json()["code"] == "too_many_requests"
        assert 1 <= int(told.headers["Retry-After"]) <= 20
        assert (await client.get("/things/live")).status_code == 200
