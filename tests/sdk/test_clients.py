"""Both clients against a server that answers badly in every way it can."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import errors
from gateway.sdk import AsyncSluice, Sluice

TOKEN = "tok"


@pytest.fixture
def sluice(server: Any) -> Iterator[Sluice]:
    with Sluice(server.url, TOKEN) as client:
        yield client


def test_a_get_is_repeated_until_it_is_answered(server: Any, answers: Any, sluice: Sluice) -> None:
    lost = answers.problem(503, "scheduler_unavailable", "away", retryable=True)
    server.answers = [answers.hang_up, lost, answers.json({}, 502), answers.json(answers.session())]
    session = sluice.sessions.get("demo")
    assert (session.name, session.phase) == ("demo", "queued")
    assert [asked.path for asked in server.asked] == ["/api/v1/sessions/demo"] * 4
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer tok"}


async def test_the_asyncio_client_does_the_same(server: Any, answers: Any) -> None:
    server.answers = [answers.hang_up, answers.json(answers.session())]
    async with AsyncSluice(server.url, TOKEN) as client:
        assert (await client.sessions.get("demo")).name == "demo"
    assert len(server.asked) == 2


def test_a_create_is_repeated_under_one_key(server: Any, answers: Any, sluice: Sluice) -> None:
    server.answers = [answers.hang_up, answers.json(answers.session(), 201)]
    sluice.sessions.create("llama-cpp", parameters={"context": 512}, resources=None)
    keys = [asked.headers["idempotency-key"] for asked in server.asked]
    assert len(keys) == 2
    assert keys[0] == keys[1] != ""
    assert server.asked[0].body == {"recipe": "llama-cpp", "parameters": {"context": 512}}
    server.answers = [answers.json(answers.session(), 201)]
    sluice.sessions.create("llama-cpp")
    sluice.sessions.create("llama-cpp", idempotency_key="mine")
    assert server.asked[-2].headers["idempotency-key"] not in keys
    assert server.asked[-1].headers["idempotency-key"] == "mine"


def test_a_delete_is_never_repeated(server: Any, answers: Any, sluice: Sluice) -> None:
    server.answers = [answers.hang_up, answers.json({}, 204)]
    with pytest.raises(errors.Unavailable, match="does not answer"):
        sluice.sessions.delete("demo")
    assert len(server.asked) == 1


def test_retry_after_is_obeyed_and_a_long_one_is_not_waited_for(server: Any, answers: Any, sluice: Sluice) -> None:
    busy = answers.problem(429, "submit_deferred", "limit", headers={"Retry_After": "3600"})
    server.answers = [busy]
    with pytest.raises(errors.SubmitDeferred, match="limit"):
        sluice.sessions.get("demo")
    assert len(server.asked) == 1


@pytest.mark.parametrize("kind", errors.tree()[1:])
def test_problems_become_the_same_errors(
    kind: type[errors.SluiceError], server: Any, answers: Any, sluice: Sluice
) -> None:
    told = {"hint": "do this", "details": {"parameter": "context", "message": "shadowed"}, "request_id": "r1"}
    server.answers = [answers.problem(422, kind.code, "what is wrong", **told)]
    with pytest.raises(kind) as caught:
        sluice.sessions.get("demo")
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.hint) == ("what is wrong", "do this")
    assert caught.value.details == {"parameter": "context", "request_id": "r1", "status": 422}


def test_an_unknown_code_falls_back_on_the_status(server: Any, answers: Any, sluice: Sluice) -> None:
    server.answers = [answers.problem(409, "invented_later", "no")]
    with pytest.raises(errors.Conflict):
        sluice.sessions.get("demo")
    server.answers = [answers.json("<html>", 404)]
    with pytest.raises(errors.NotFound, match="answered 404"):
        sluice.sessions.get("demo")


def test_something_else_at_the_address_is_told(server: Any, answers: Any, sluice: Sluice) -> None:
    server.answers = [answers.json({"hello": "world"})]
    with pytest.raises(errors.Unavailable, match="not like a Sluice gateway"):
        sluice.sessions.get("demo")


def test_nobody_at_the_address_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but it does not listen
        client = Sluice(f"http://127.0.0.1:{taken.getsockname()[1]}", TOKEN, attempts=2)
        with pytest.raises(errors.Unavailable, match="does not answer") as caught:
            client.sessions.get("demo")
        assert "sluice up" in caught.value.hint
        assert not client.alive()
        client.close()


def test_a_list_turns_the_pages(server: Any, answers: Any, sluice: Sluice) -> None:
    pages = [{"items": [answers.session(name=n)], "next": c} for n, c in (("a", "C1"), ("b", "C2"), ("c", None))]
    server.answers = [answers.json(page) for page in pages]
    assert [session.name for session in sluice.sessions.list(ended=False)] == ["a", "b", "c"]
    assert "cursor" not in server.asked[0].path
    assert "cursor=C1" in server.asked[1].path
    assert all("ended=false" in asked.path for asked in server.asked)


def test_a_wrong_request_is_not_sent(server: Any, answers: Any, sluice: Sluice) -> None:
    server.answers = [answers.json({})]
    with pytest.raises(errors.Invalid, match="name"):
        sluice.sessions.create("llama-cpp", name="Not A Name")
    assert server.asked == []


def test_a_degraded_gateway_tells_its_health(server: Any, answers: Any, sluice: Sluice) -> None:
    server.answers = [answers.json({"status": "degraded", "version": "1", "checks": {"database": "away"}}, 503)]
    assert sluice.health().checks == {"database": "away"}


def test_names_are_quoted(server: Any, answers: Any, sluice: Sluice) -> None:
    server.answers = [answers.json(answers.session())]
    sluice.sessions.get("../health")
    assert server.asked[0].path == "/api/v1/sessions/..%2Fhealth"


def test_the_openai_client_gets_address_and_token(server: Any, answers: Any, sluice: Sluice) -> None:
    server.answers = [answers.json(answers.session()), answers.json(answers.session(model=None))]
    with sluice.sessions.get("demo").openai() as client:
        assert str(client.base_url) == f"{server.url}/v1/"
        assert client.api_key == TOKEN
    with pytest.raises(errors.NotReady, match="serves no model"):
        sluice.sessions.get("demo").openai()
