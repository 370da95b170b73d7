"""How much callers and sessions may have at once: rates, places, lines; and names that a project gives to models."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import generate_latest

from gateway.client.limits import Limits, Ticket
from gateway.client.usage import Tail, Usage
from gateway.errors import Overloaded, TooMany
from gateway.model.principal import Principal
from gateway.settings import ProxySettings, RequestLimits
from gateway.web.rate import Rate
from tests.client.fleet import a_route, an_endpoint
from tests.services import STREAM_HEAD, Asked, answer, chunk, read_request

if TYPE_CHECKING:
    import httpx


ADA, BOB = Principal(name="ada"), Principal(name="bob")


def inside(*tickets: Ticket) -> list[bool]:
    return [ticket.gate is not None for ticket in tickets]


def test_a_rate_gives_a_burst_and_then_one_at_a_time() -> None:
    rate = Rate(60)
    assert [rate.take("ada", 0.0) for _ in range(60)] == [0.0] * 60
    assert rate.take("ada", 0.0) == pytest.approx(1.0)
    assert rate.take("bob", 0.0) == 0.0
    assert rate.take("ada", 1.0) == 0.0
    assert rate.take("ada", 1.0) == pytest.approx(1.0)
    assert [rate.take("ada", 1000.0) for _ in range(60)] == [0.0] * 60
    assert Rate(0).take("ada", 0.0) == 0.0


async def test_tickets_are_given_back_once() -> None:
    limits = Limits(ProxySettings(session_in_flight=1, session_queue=1, concurrent_requests=3, requests_per_minute=4))
    one, three = (a_route("s"),), (a_route("s", 3),)
    first = limits.enter(ADA, one, 0.0)
    second = limits.enter(BOB, one, 0.0)
    assert inside(first, second) == [True, False]
    assert inside(limits.enter(ADA, three, 0.0)) == [True]  # with three replicas there is room, also for who waited
    await second.wait()
    other = limits.enter(ADA, (a_route("t"),), 0.0)
    with pytest.raises(TooMany, match="3 requests under way"):
        limits.enter(ADA, (a_route("u"),), 0.0)
    other.done()
    other.done()
    limits.enter(ADA, (a_route("u"),), 0.0).done()
    with pytest.raises(TooMany, match="the 4 requests"):
        limits.enter(ADA, (a_route("u"),), 0.0)


async def test_a_line_that_is_full_is_told() -> None:
    limits = Limits(ProxySettings(session_in_flight=1, session_queue=1, queue_seconds=0.01))
    routes = (a_route("s"),)
    first = limits.enter(ADA, routes, 0.0)
    waiting = limits.enter(ADA, routes, 0.0)
    with pytest.raises(Overloaded, match="1 requests wait"):
        limits.enter(ADA, routes, 0.0)
    with pytest.raises(Overloaded, match="was busy"):
        await waiting.wait()
    waiting.done()
    late = limits.enter(ADA, routes, 0.0)
    first.done()
    assert await late.wait()
    late.done()
    assert inside(limits.enter(ADA, routes, 0.0)) == [True]


async def test_who_waits_goes_in_when_a_replica_comes_though_nobody_leaves() -> None:
    limits = Limits(ProxySettings(session_in_flight=1, progress_seconds=0.01))
    route, crowd = a_route("s"), (a_route("t"), a_route("u"))
    assert inside(limits.enter(ADA, (route,), 0.0)) == [True]
    waiting = [limits.enter(ADA, (route,), 0.0) for _ in range(2)]
    assert inside(*(limits.enter(ADA, crowd, 0.0) for _ in range(3))) == [True, True, False]
    assert limits.waiting() == {"s": 2, "t": 1, "u": 1}
    route.members += (an_endpoint("another"),)
    await waiting[0].wait()
    assert (inside(*waiting), limits.waiting()["s"]) == ([True, False], 1)


async def test_the_time_in_line_stands_still_while_the_session_starts() -> None:
    limits = Limits(ProxySettings(session_in_flight=1, queue_seconds=0.01, progress_seconds=0.01, wake_seconds=600))
    route, told = a_route("s", 0), asyncio.Queue[str]()
    assert inside(limits.enter(ADA, (route,), 0.0)) == [True]
    second = limits.enter(ADA, (route,), 0.0)
    waits = asyncio.create_task(second.wait(told.put_nowait))
    assert [await told.get() for _ in range(3)] == ["session s is starting"] * 3
    route.members += (an_endpoint("one"),)
    with pytest.raises(Overloaded, match="was busy"):
        await waits
    second.done()
    limits = Limits(ProxySettings(session_in_flight=1, queue_seconds=0.01, progress_seconds=0.01, wake_seconds=0.05))
    routes = (a_route("s", 0),)
    limits.enter(ADA, routes, 0.0)
    with pytest.raises(Overloaded, match="was busy"):
        await limits.enter(ADA, routes, 0.0).wait()


async def test_callers_who_may_ask_other_sessions_of_a_model_do_not_stand_in_each_others_way() -> None:
    limits = Limits(ProxySettings(session_in_flight=1, session_queue=0))
    hers, his = (a_route("s"), a_route("t")), (a_route("u"), a_route("v"))
    assert inside(*(limits.enter(ADA, hers, 0.0) for _ in range(2)), limits.enter(BOB, his, 0.0)) == [True, True, True]


async def test_a_recipe_says_how_much_a_replica_takes_and_how_many_wait() -> None:
    told: list[str] = []
    limits = Limits(ProxySettings(), lambda: told.append("waiting"))
    routes = (a_route("s", 2, max_in_flight=1, max_queue=1),)
    assert inside(*(limits.enter(ADA, routes, 0.0) for _ in range(3))) == [True, True, False]
    assert told == ["waiting"]
    with pytest.raises(Overloaded):
        limits.enter(ADA, routes, 0.0)


async def test_tokens_and_projects_have_limits_of_their_own() -> None:
    limits = Limits(
        ProxySettings(
            token=RequestLimits(requests_per_minute=2),
            project=RequestLimits(concurrent_requests=1),
            projects={"rich": RequestLimits(concurrent_requests=2)},
        )
    )
    poor, rich = (a_route("s"),), (a_route("t", project="rich"),)
    with_token, other = ADA.model_copy(update={"token": "one"}), ADA.model_copy(update={"token": "two"})
    first = limits.enter(with_token, poor, 0.0)
    with pytest.raises(TooMany, match="the project has 1 requests"):
        limits.enter(other, poor, 0.0)
    tickets = [limits.enter(other, rich, 0.0) for _ in range(2)]
    with pytest.raises(TooMany, match="the project has 2 requests"):
        limits.enter(ADA, rich, 0.0)
    for ticket in (first, *tickets):
        ticket.done()
    limits.enter(with_token, poor, 0.0).done()
    with pytest.raises(TooMany, match="this token has the 2 requests") as refused:
        limits.enter(with_token, poor, 0.0)
    assert 0 < refused.value.details["retry_after"] <= 30
    limits.enter(ADA, poor, 0.0).done()  # by no token: nothing was taken from the project by who was refused


@pytest.mark.parametrize(
    ("text", "used"),
    [
        (b'{"choices":[{"text":"\\"usage\\": {}"}],"usage":{"prompt_tokens":3,"completion_tokens":4}}', Usage(3, 4)),
        (
            b'data: {"usage":{"prompt_tokens":1,"prompt_tokens_details":{"cached":1},"completion_tokens":2}}',
            Usage(1, 2),
        ),
        (b'{"usage": {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11}}', Usage(5, 6)),
        (b'{"data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}', Usage(8, 0)),
        (b'{"usage":null}', None),
        (b'{"usage":{"prompt_tokens":-1}}', None),
        (b'{"usage":{"prompt_tokens":', None),
        (b"", None),
    ],
)
def test_the_tokens_are_read_from_the_end(text: bytes, used: Usage | None) -> None:
    for before in (b"", b"x" * 9000):
        tail = Tail(stream=False)
        for at in range(0, len(before + text), 7):
            tail.add((before + text)[at : at + 7])
        assert tail.usage() == used


class Counting:
    """A model server that answers when it is told to, and says what it used."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.go = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await read_request(reader)) is not None:
            self.asked.append(asked)
            await self.go.wait()
            usage = {"usage": {"prompt_tokens": 10, "completion_tokens": 5}}
            if asked.json.get("stream"):
                writer.write(STREAM_HEAD + chunk(b"data: " + json.dumps(usage).encode() + b"\n\n"))
                writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            else:
                writer.write(answer(usage))


@pytest.mark.parametrize(
    "plane", [{"session_in_flight": 1, "session_queue": 1, "requests_per_minute": 3}], indirect=True
)
async def test_who_asks_too_much_is_told_when_to_come_back(plane: Any) -> None:
    model = Counting()
    session = await plane.serve(model)

    def ask() -> "asyncio.Task[httpx.Response]":
        return asyncio.create_task(plane.http.post("/v1/completions", json={"model": "tiny"}))

    async def until_asked(number: int) -> None:
        async def there() -> bool:
            return len(model.asked) == 1 and plane.data.limits.waiting().get(session.id, 0) == number

        await plane.site.until(there, f"{number} in line")

    first = ask()
    await until_asked(0)
    second = ask()
    await until_asked(1)
    full = await ask()
    assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded")
    assert int(full.headers["retry-after"]) > 0
    model.go.set()
    assert [(await task).status_code for task in (first, second)] == [200, 200]
    assert (await ask()).status_code == 200
    limited = await ask()
    assert (limited.status_code, limited.json()["error"]["type"]) == (429, "rate_limit_error")
    assert 0 < int(limited.headers["retry-after"]) <= 20


async def test_the_tokens_of_answers_and_streams_are_counted(plane: Any) -> None:
    model = Counting()
    model.go.set()
    await plane.serve(model)
    for stream in (False, True):
        await plane.http.post("/v1/chat/completions", json={"model": "tiny", "stream": stream})
    shown = generate_latest(plane.web.metrics.registry).decode()
    assert 'sluice_proxy_tokens_total{kind="prompt",model="tiny"} 20.0' in shown
    assert 'sluice_proxy_tokens_total{kind="completion",model="tiny"} 10.0' in shown


@pytest.mark.parametrize(
    "plane", [{"aliases": {"default": {"gpt": "tiny"}, "other": {"gpt-2": "tiny"}}}], indirect=True
)
async def test_a_project_may_call_a_model_otherwise(plane: Any) -> None:
    model = Counting()
    model.go.set()
    await plane.serve(model)
    text = b'{"seed" : 1.50, "model": "gpt", "deep": {"model": "gpt", "x": [1,  2]}}'
    assert (await plane.http.post("/v1/completions", content=text)).status_code == 200
    assert model.asked[0].body == b'{"seed":1.50,"model":"tiny","deep":{"model": "gpt", "x": [1,  2]}}'
    told = await plane.http.post("/v1/completions", json={"model": "gpt-2"})
    assert (told.status_code, told.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("plane", [{"session_domain": "sessions.example.org"}], indirect=True)
async def test_a_session_may_be_an_origin_of_its_own(plane: Any) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await read_request(reader)) is not None:
            told = {"target": asked.target, "headers": asked.headers}
            writer.write(answer(told, location="/login", set_cookie="a=b; Path=/; Domain=example.org"))

    session = await plane.serve(echo, "app", name="lab")
    for label in ("lab", session.id.lower()):
        host = f"{label}.sessions.example.org:8000"
        found = await plane.http.get("/v1/models?x=1", headers={"Host": host})
        assert found.json()["target"] == "/v1/models?x=1"
        assert found.json()["headers"]["host"] == host
        assert "x-forwarded-prefix" not in found.json()["headers"]
        assert (found.headers["location"], found.headers["set-cookie"]) == ("/login", "a=b; Path=/")
    assert (await plane.http.get("/", headers={"Host": "none.sessions.example.org"})).status_code == 404
    assert (await plane.http.get("/health/live", headers={"Host": "sessions.example.org"})).status_code == 200
