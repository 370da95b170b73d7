"""The OpenAI front: the real OpenAI client against small servers behind real mutual TLS."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from gateway.client.app import knowledge
from gateway.model.health import ill
from gateway.model.session import Phase
from tests.services import STREAM_HEAD, Asked, answer, chunk, read_request


class Model:
    """A model server. `rude`: it closes after each stream without a word, as llama-server does."""

    def __init__(self, *, rude: bool = False, words: int = 3) -> None:
        self.asked: list[Asked] = []
        self.rude, self.words = rude, words
        self.connections = 0
        self.hold: asyncio.Event | None = None
        self.broken = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        used = 0
        while (asked := await read_request(reader)) is not None:
            self.connections, used = self.connections + (not used), used + 1
            self.asked.append(asked)
            if asked.json.get("stream"):
                await self.stream(reader, writer)
                if self.rude:
                    return
            else:
                writer.write(answer(_completion(asked)))

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for number in range(self.words):
            delta = {"index": 0, "delta": {"content": f"w{number} "}, "finish_reason": None}
            event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [delta]}
            writer.write(chunk(b"data: " + json.dumps(event).encode() + b"\n\n"))
            await writer.drain()
            if self.hold is not None:
                waits = [asyncio.ensure_future(self.hold.wait()), asyncio.ensure_future(_gone(reader, self.broken))]
                _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in pending:
                    wait.cancel()
                if self.broken.is_set():
                    return
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def _gone(reader: asyncio.StreamReader, broken: asyncio.Event) -> None:
    try:
        if await reader.read(1) == b"":
            broken.set()
    except ConnectionError:
        broken.set()


def _completion(asked: Asked) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"{asked.json['model']} at {asked.target}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": asked.json["model"], "choices": [choice]}


MESSAGES: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def ai(plane: Any) -> Any:
    async with openai.AsyncOpenAI(base_url=f"{plane.url}/v1", api_key=plane.site.token, max_retries=0) as client:
        yield client


async def test_a_model_is_listed_and_answers_by_its_name_its_sessions_name_and_id(plane: Any, ai: Any) -> None:
    model = Model()
    session = await plane.serve(model, name="demo", parameters={"alias": "org/tiny-1"})
    assert [found.id async for found in await ai.models.list()] == ["org/tiny-1"]
    assert (await ai.models.retrieve("org/tiny-1")).owned_by == "admin"
    for name in ("org/tiny-1", "demo", session.id, session.id.lower()):
        said = await ai.chat.completions.create(model=name, messages=MESSAGES, extra_query={"a": "b"})
        assert said.choices[0].message.content == "org/tiny-1 at /v1/chat/completions?a=b"
    assert model.connections == 1
    assert {asked.json["model"] for asked in model.asked} == {"org/tiny-1"}


async def test_a_stream_comes_piece_by_piece(plane: Any, ai: Any) -> None:
    model = Model(words=2)
    model.hold = asyncio.Event()
    await plane.serve(model)
    stream = await ai.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    first = await anext(stream)
    assert first.choices[0].delta.content == "w0 "
    model.hold.set()
    assert [piece.choices[0].delta.content async for piece in stream] == ["w1 "]


async def test_the_server_sees_neither_the_token_nor_cookies_but_where_it_came_from(plane: Any) -> None:
    model = Model()
    session = await plane.serve(model)
    response = await plane.http.post(
        "/v1/completions",
        json={"model": "tiny"},
        headers={"Cookie": "a=b", "X-Request-Id": "r-1", "Connection": "keep-alive, X-Private", "X-Private": "1"},
    )
    assert response.status_code == 200
    assert response.headers["x-sluice-session"] == session.id
    assert response.headers["x-request-id"] == "r-1"
    headers = model.asked[0].headers
    assert plane.site.token not in str(headers)
    assert not {"authorization", "cookie", "x-private", "transfer-encoding"} & set(headers)
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-request-id"] == "r-1"
    assert headers["host"] == plane.url.removeprefix("http://")


async def test_a_server_that_closes_after_each_stream_costs_no_request(plane: Any) -> None:
    model = Model(rude=True)
    await plane.serve(model)
    answers = []
    for number in range(40):
        body = {"model": "tiny", "stream": number % 2 == 0}
        answers.append(await plane.http.post("/v1/chat/completions", json=body))
    assert {response.status_code for response in answers} == {200}
    assert all("[DONE]" in response.text for response in answers[::2])

    async def one(number: int) -> int:
        body = {"model": "tiny", "stream": number % 3 > 0}
        return int((await plane.http.post("/v1/chat/completions", json=body)).status_code)

    assert set(await asyncio.gather(*(one(number) for number in range(60)))) == {200}


async def test_when_the_caller_leaves_the_server_is_told_at_once(plane: Any, ai: Any) -> None:
    model = Model(words=2)
    model.hold = asyncio.Event()
    await plane.serve(model)
    stream = await ai.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    await anext(stream)
    await stream.close()
    async with asyncio.timeout(60):
        await model.broken.wait()


async def test_a_caller_who_leaves_before_the_answer_frees_the_server_too(plane: Any) -> None:
    arrived, left = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        await read_request(reader)
        arrived.set()
        await _gone(reader, left)

    await plane.serve(slow)
    asking = asyncio.create_task(plane.http.post("/v1/completions", json={"model": "tiny"}))
    await arrived.wait()
    asking.cancel()
    async with asyncio.timeout(60):
        await left.wait()


async def test_a_slow_reader_slows_the_server_down(plane: Any) -> None:
    sent = 0
    stalled = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(STREAM_HEAD)
        for _ in range(2000):
            writer.write(chunk(b"x" * 65536))
            try:
                async with asyncio.timeout(1):
                    await writer.drain()
            except TimeoutError:
                stalled.set()
                await writer.drain()
            sent += 65536
        writer.write(b"0\r\n\r\n")

    await plane.serve(flood)
    async with plane.http.stream("POST", "/v1/completions", json={"model": "tiny"}) as response:
        pieces = response.aiter_bytes()
        size = len(await anext(pieces))
        await stalled.wait()
        assert sent < 64 << 20
        async for piece in pieces:
            size += len(piece)
    assert size == 2000 * 65536


async def test_a_stream_that_breaks_off_ends_with_an_error(plane: Any, ai: Any) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": []}
        writer.write(STREAM_HEAD + chunk(b"data: " + json.dumps(event).encode() + b"\n\n"))
        await writer.drain()

    await plane.serve(half)
    stream = await ai.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="closed the connection"):
        async for _ in stream:
            pass


async def test_an_answer_that_breaks_off_does_not_look_whole(plane: Any) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        await writer.drain()

    await plane.serve(half)
    with pytest.raises(httpx.RemoteProtocolError):
        await plane.http.post("/v1/completions", json={"model": "tiny"})


async def test_an_unknown_model_is_told_with_those_that_are_there(plane: Any, ai: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="No model is being served"):
        await ai.chat.completions.create(model="nope", messages=MESSAGES)
    await plane.serve(Model(), parameters={"alias": "one"})
    await plane.serve(Model(), parameters={"alias": "two"})
    with pytest.raises(openai.NotFoundError, match="Available: one, two") as told:
        await ai.embeddings.create(model="nope", input="x")
    assert (told.value.code, told.value.type, told.value.param) == ("model_not_found", "invalid_request_error", "model")


async def test_a_model_that_is_coming_says_when_to_ask_again(plane: Any, ai: Any) -> None:
    session = await plane.site.create("chat", name="later", parameters={"alias": "big"})
    await plane.site.reaches(session.id, Phase.QUEUED)
    for name in ("big", "later", session.id):
        with pytest.raises(openai.InternalServerError, match="not ready yet: session later is queued") as told:
            await ai.chat.completions.create(model=name, messages=MESSAGES)
        assert (told.value.status_code, told.value.code) == (503, "not_ready")
        assert int(told.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "invalid_request"),
        (b"[]", 400, "invalid_request"),
        (b"{}", 400, "invalid_request"),
        (b'{"model": 3}', 400, "invalid_request"),
    ],
)
async def test_bad_input_is_told_in_openais_words(plane: Any, content: bytes, status: int, code: str) -> None:
    response = await plane.http.post("/v1/chat/completions", content=content)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_question_may_come_in_chunks(plane: Any) -> None:
    """As programs send one that they write while they send it; the model server is told its length."""
    model, text = Model(), json.dumps({"model": "tiny", "messages": MESSAGES}).encode()

    async def pieces(size: int) -> AsyncIterator[bytes]:
        for at in range(0, len(text), size):
            yield text[at : at + size]

    await plane.serve(model)
    for size in (len(text), 7, 1):
        response = await plane.http.post("/v1/chat/completions", content=pieces(size))
        assert (response.status_code, model.asked[-1].body) == (200, text)
        assert model.asked[-1].headers["content-length"] == str(len(text))
        assert "transfer-encoding" not in model.asked[-1].headers


async def test_only_the_named_paths_reach_a_server_and_nothing_without_the_token(plane: Any) -> None:
    model = Model()
    await plane.serve(model)
    for path in ("/v1/load_lora_adapter", "/v1/../metrics", "/v1/chat/completions/", "/v1", "/v1/internal/x"):
        assert (await plane.http.post(path, json={"model": "tiny"})).status_code == 404
    refused = await plane.http.get("/v1/chat/completions")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    async with httpx.AsyncClient(base_url=plane.url, timeout=60) as stranger:
        answer = await stranger.post("/v1/chat/completions", json={"model": "tiny"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        assert (await stranger.get("/health/live")).status_code == 200
        assert (await stranger.get("/health/ready")).status_code == 401
    assert model.asked == []
    health = (await plane.http.get("/health/ready")).json()
    assert health["status"] == "ok"
    assert re.fullmatch(r"ok, as of \d+\.\d s ago", health["checks"]["routes"])
    assert knowledge(60) == ill("known as of 60 s ago: the database does not answer")


async def test_the_least_busy_of_several_sessions_answers(plane: Any) -> None:
    busy, free = Model(words=1), Model()
    busy.hold = free.hold = asyncio.Event()
    await plane.serve(busy)
    await plane.serve(free)

    async def known() -> bool:
        return len((await plane.http.get("/v1/models")).json()["data"][0]["sessions"]) == 2

    await plane.site.until(known, "both are in the table")
    for route in plane.data.routes.all():
        for member in route.members:
            member.health.back(float("-inf"))  # both have been there for long: who is new gets less
    body = {"model": "tiny", "stream": True}
    async with (
        plane.http.stream("POST", "/v1/completions", json=body),
        plane.http.stream("POST", "/v1/completions", json=body),
    ):
        assert (len(busy.asked), len(free.asked)) == (1, 1)
        busy.hold.set()


async def test_an_endpoint_that_is_gone_is_passed_over_while_another_answers(plane: Any) -> None:
    model = Model()
    dead = await plane.node(Model())
    alive = await plane.node(model)
    await plane.site.ready(alive)
    gone = await plane.site.ready(dead, name="gone")
    await plane.drop(dead)
    for _ in range(4):
        assert (await plane.http.post("/v1/completions", json={"model": "tiny"})).status_code == 200
    told = await plane.http.post("/v1/completions", json={"model": gone.name})
    assert (told.status_code, told.json()["error"]["code"]) == (502, "endpoint_unavailable")


async def test_a_session_that_ended_is_served_no_more(plane: Any) -> None:
    session = await plane.serve(Model())
    assert (await plane.http.post("/v1/completions", json={"model": "tiny"})).status_code == 200
    plane.site.slurm.finish(await plane.site.job_id(session.id))
    await plane.site.reaches(session.id, Phase.FAILED)

    async def withdrawn() -> bool:
        return int((await plane.http.post("/v1/completions", json={"model": "tiny"})).status_code) == 404

    await plane.site.until(withdrawn, "the route is withdrawn")


async def test_the_last_table_is_served_while_the_database_is_away(plane: Any) -> None:
    await plane.serve(Model())
    assert (await plane.http.post("/v1/completions", json={"model": "tiny"})).status_code == 200
    database = plane.site.gateway.settings.state_dir / "sluice.db"
    plane.site.gateway.db.engine.dispose()
    database.rename(plane.folder / "away.db")
    database.mkdir()
    plane.site.gateway.db.engine.dispose()  # and what was opened meanwhile
    for _ in range(5):
        assert (await plane.http.post("/v1/completions", json={"model": "tiny"})).status_code == 200
    assert (await plane.http.post("/v1/completions", json={"model": "none"})).status_code == 503
    assert (await plane.http.get("/v1/models")).json()["data"][0]["id"] == "tiny"
    database.rmdir()
    (plane.folder / "away.db").rename(database)
    plane.site.gateway.db.engine.dispose()  # who came in between has made an empty one
    await plane.serve(Model(), parameters={"alias": "new"})
    assert (await plane.http.post("/v1/completions", json={"model": "new"})).status_code == 200
