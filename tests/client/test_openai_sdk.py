"""The OpenAI SDK as people use it: blocking and not, streams, tools, embeddings, responses, errors."""

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.services import STREAM_HEAD, Asked, answer, chunk, read_request

WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
}
ASK: Any = [{"role": "user", "content": "What is the weather in Bern?"}]


class Server:
    """Answers each path as a model server does; with `tools` it calls the first one."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await read_request(reader)) is not None:
            self.asked.append(asked)
            match asked.target:
                case "/v1/chat/completions" if asked.json.get("stream"):
                    writer.write(_stream(asked.json))
                case "/v1/chat/completions":
                    writer.write(answer(_completion(asked.json)))
                case "/v1/embeddings":
                    data = [{"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}]
                    usage = {"prompt_tokens": 2, "total_tokens": 2}
                    writer.write(answer({"object": "list", "model": "tiny", "data": data, "usage": usage}))
                case "/v1/responses":
                    writer.write(answer(_response(asked.json)))
                case "/tokenize":
                    writer.write(answer({"tokens": [1, 2, 3], "count": 3}))
                case _:
                    writer.write(answer({"error": {"message": "no such path"}}, "404 Not Found"))


def _message(asked: dict[str, Any]) -> dict[str, Any]:
    if "tools" not in asked:
        return {"role": "assistant", "content": "sunny"}
    function = {"name": asked["tools"][0]["function"]["name"], "arguments": '{"at": "Bern"}'}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }


def _completion(asked: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "message": _message(asked), "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice]}


def _stream(asked: dict[str, Any]) -> bytes:
    calls = _message(asked).get("tool_calls", [])
    deltas: list[dict[str, Any]] = [{"tool_calls": [{"index": 0, **call}]} for call in calls] or [
        {"content": "sun"},
        {"content": "ny"},
    ]
    text = STREAM_HEAD
    for delta in deltas:
        choices = [{"index": 0, "delta": delta, "finish_reason": None}]
        event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": choices}
        text += chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
    return text + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _response(asked: dict[str, Any]) -> dict[str, Any]:
    content = [{"type": "output_text", "text": f"so: {asked['input']}", "annotations": []}]
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}
    shared = {"id": "r", "object": "response", "created_at": 1, "model": "tiny", "status": "completed"}
    return {**shared, "output": [message], "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}


@pytest.fixture
async def served(plane: Any) -> Server:
    server = Server()
    await plane.serve(server)
    return server


def blocking(url: str, token: str) -> tuple[str | None, str, str | None, list[float], str, str]:
    """Everything once, with the client that most people use."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0) as client:
        said = client.chat.completions.create(model="tiny", messages=ASK).choices[0].message.content
        pieces = client.chat.completions.create(model="tiny", messages=ASK, stream=True)
        streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        calls = (
            client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER]).choices[0].message.tool_calls
        )
        function = getattr(calls[0], "function", None) if calls else None
        vector = client.embeddings.create(model="tiny", input="x", encoding_format="float").data[0].embedding
        response = client.responses.create(model="tiny", input="hello").output_text
        try:
            client.chat.completions.create(model="none", messages=ASK)
        except openai.NotFoundError as error:
            return said, streamed, getattr(function, "arguments", None), vector, response, str(error.code)
    raise AssertionError("a model that is not there answered")


async def test_the_blocking_client(plane: Any, served: Server) -> None:
    told = await asyncio.to_thread(blocking, plane.url, plane.site.token)
    assert told == ("sunny", "sunny", '{"at": "Bern"}', [0.5, 1.0], "so: hello", "model_not_found")
    assert [asked.target for asked in served.asked].count("/v1/chat/completions") == 3


async def test_tools_in_a_stream(plane: Any, served: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{plane.url}/v1", api_key=plane.site.token, max_retries=0) as client:
        stream = await client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER], stream=True)
        calls = [call async for piece in stream for call in piece.choices[0].delta.tool_calls or []]
    assert [call.function.name for call in calls if call.function is not None] == ["weather"]
    assert served.asked[0].json["tools"] == [WEATHER]


async def test_errors_are_those_that_the_client_knows(plane: Any, served: Server) -> None:
    def client(token: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{plane.url}/v1", api_key=token, max_retries=0)

    async with client("wrong") as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            await stranger.models.list()
        assert (refused.value.type, refused.value.code) == ("authentication_error", "unauthenticated")
    async with client(plane.site.token) as ours:
        with pytest.raises(openai.BadRequestError) as bad:
            await ours.post("/chat/completions", body={"messages": []}, cast_to=object)
        assert (bad.value.type, bad.value.code, bad.value.param) == (
            "invalid_request_error",
            "invalid_request",
            "model",
        )
        with pytest.raises(openai.NotFoundError):
            await ours.post("/fine_tuning/jobs", body={"model": "tiny"}, cast_to=object)
    assert served.asked == []


async def test_paths_that_only_some_servers_have(plane: Any, served: Server) -> None:
    told = await plane.http.post("/v1/tokenize", json={"model": "tiny", "prompt": "a b c"})
    assert (told.status_code, told.json()["count"]) == (200, 3)
    assert (await plane.http.post("/v1/detokenize", json={"model": "tiny", "tokens": [1]})).status_code == 404
    for path in ("/v1/../tokenize", "/v1/%2e%2e/metrics", "/v1/load_lora_adapter", "/v1/tokenize/", "/v1//tokenize"):
        assert (await plane.http.post(path, json={"model": "tiny"})).status_code == 404, path
    assert [asked.target for asked in served.asked] == ["/tokenize", "/detokenize"]
