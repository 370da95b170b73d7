"""The OpenAI SDK as people use it: blocking and not, streams, tools, embeddings, responses, errors."""

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.client.test_openai import Model
from tests.people import a_person, a_token
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
                case "/v1/responses" if asked.json.get("stream"):
                    writer.write(_response_stream(asked.json))
                case "/v1/responses":
                    writer.write(answer(_response(asked.json)))
                case "/v1/completions":
                    writer.write(self.fault(asked.json["prompt"]))
                case "/tokenize":
                    writer.write(answer({"tokens": [1, 2, 3], "count": 3}))
                case _:
                    writer.write(answer({"error": {"message": "no such path"}}, "404 Not Found"))

    @staticmethod
    def fault(status: str) -> bytes:
        """What a model server says when it refuses: with the status that the prompt names."""
        said = {"message": "so says the server", "type": "its_type", "param": "prompt", "code": "its_code"}
        return answer({"error": said}, f"{status} Refused")


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


def _response_stream(asked: dict[str, Any]) -> bytes:
    text = STREAM_HEAD
    shared = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
    events: list[dict[str, Any]] = [
        {"type": "response.output_text.delta", "delta": "so: ", **shared},
        {"type": "response.output_text.delta", "delta": str(asked["input"]), **shared},
        {"type": "response.completed", "response": _response(asked)},
    ]
    for number, event in enumerate(events):
        told = json.dumps({"sequence_number": number, **event})
        text += chunk(f"event: {event['type']}\ndata: {told}\n\n".encode())
    return text + b"0\r\n\r\n"


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


async def test_the_asyncio_client(plane: Any, served: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{plane.url}/v1", api_key=plane.site.token, max_retries=0) as client:
        told = await client.chat.completions.create(model="tiny", messages=ASK)
        assert told.choices[0].message.content == "sunny"
        stream = await client.chat.completions.create(model="tiny", messages=ASK, stream=True)
        assert "".join([piece.choices[0].delta.content or "" async for piece in stream]) == "sunny"
        vectors = await client.embeddings.create(model="tiny", input=["a", "b"], encoding_format="float")
        assert vectors.data[0].embedding == [0.5, 1.0]
        assert (await client.responses.create(model="tiny", input="hello")).output_text == "so: hello"
        events = await client.responses.create(model="tiny", input="you", stream=True)
        types = [event.type async for event in events]
        assert types == ["response.output_text.delta", "response.output_text.delta", "response.completed"]
        answers = await asyncio.gather(
            *(client.chat.completions.create(model="tiny", messages=ASK) for _ in range(20)),
        )
        assert {answer.choices[0].message.content for answer in answers} == {"sunny"}
        assert [model.id async for model in client.models.list()] == ["tiny"]
    assert all(asked.json["model"] == "tiny" for asked in served.asked)


async def test_what_is_asked_reaches_the_server_unchanged(plane: Any, served: Server) -> None:
    schema = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}
    options: Any = {
        "tools": [WEATHER, {**WEATHER, "function": {**WEATHER["function"], "name": "tides", "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}},
        "stop": ["\n\n", "\u00fc"],
        "seed": 7,
        "logit_bias": {"5": -100},
        "extra_body": {"guided_regex": "[a-z]+\\d", "top_k": 5},
    }
    async with openai.AsyncOpenAI(base_url=f"{plane.url}/v1", api_key=plane.site.token, max_retries=0) as client:
        told = await client.chat.completions.create(model="tiny", messages=ASK, **options)
    sent = served.asked[0].json
    assert {**options, **options["extra_body"], "extra_body": None} == {
        **{name: sent[name] for name in (*options, *options["extra_body"]) if name != "extra_body"},
        "extra_body": None,
    }
    assert sent["messages"] == ASK
    assert told.choices[0].message.tool_calls is not None


async def test_what_a_server_refuses_is_told_in_its_own_words(plane: Any, served: Server) -> None:
    expected = {
        "400": openai.BadRequestError,
        "409": openai.ConflictError,
        "422": openai.UnprocessableEntityError,
        "429": openai.RateLimitError,
        "500": openai.InternalServerError,
        "503": openai.InternalServerError,
    }
    async with openai.AsyncOpenAI(base_url=f"{plane.url}/v1", api_key=plane.site.token, max_retries=0) as client:
        for status, kind in expected.items():
            with pytest.raises(kind, match="so says the server") as told:
                await client.completions.create(model="tiny", prompt=status)
            assert isinstance(told.value, openai.APIStatusError)
            assert (told.value.status_code, told.value.code, told.value.type) == (int(status), "its_code", "its_type")
    assert [asked.json["prompt"] for asked in served.asked] == list(expected)


@pytest.mark.parametrize("plane", [{"requests_per_minute": 2}], indirect=True)
async def test_too_many_requests_say_when_to_come_again(plane: Any, served: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{plane.url}/v1", api_key=plane.site.token, max_retries=0) as client:
        asked = [client.chat.completions.create(model="tiny", messages=ASK) for _ in range(5)]
        with pytest.raises(openai.RateLimitError) as told:
            await asyncio.gather(*asked)
    assert (told.value.type, told.value.code) == ("rate_limit_error", "too_many_requests")
    assert int(told.value.response.headers["retry-after"]) > 0
    assert len(served.asked) < 5


async def test_a_token_that_may_not_ask_models_is_told_so(plane: Any, served: Server) -> None:
    await a_person(plane.site, "ann", {})
    reader = await a_token(plane.site, "ann", "sessions:read")
    async with openai.AsyncOpenAI(base_url=f"{plane.url}/v1", api_key=reader.token, max_retries=0) as client:
        with pytest.raises(openai.PermissionDeniedError) as told:
            await client.chat.completions.create(model="tiny", messages=ASK)
    assert told.value.type == "permission_error"
    assert served.asked == []


async def test_a_stream_that_the_blocking_client_leaves_frees_the_server(plane: Any) -> None:
    model = Model(words=3)
    model.hold = asyncio.Event()
    await plane.serve(model)

    def first() -> str | None:
        with openai.OpenAI(base_url=f"{plane.url}/v1", api_key=plane.site.token, max_retries=0) as client:
            stream = client.chat.completions.create(model="tiny", messages=ASK, stream=True)
            with stream:
                return next(iter(stream)).choices[0].delta.content

    assert await asyncio.to_thread(first) == "w0 "
    async with asyncio.timeout(60):
        await model.broken.wait()


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
