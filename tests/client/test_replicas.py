"""Sessions with several jobs behind real mutual TLS: who answers, who is left alone, and what is sent again."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from gateway.client.connection import DRAINING, REFUSAL
from gateway.client.health import BAD_IN_A_ROW
from gateway.network.agents import AgentPath
from tests.client.fleet import Fleet, a_fleet
from tests.services import STREAM_HEAD, Asked, answer, chunk, read_request

END = b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@pytest.fixture
async def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    async with a_fleet(tmp_path, getattr(request, "param", None)) as made:
        yield made


class Replica:
    """One job's model server. `status`: what it answers; a stream waits for `go` after its first event."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[Asked] = []
        self.status = "200 OK"
        self.go = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await read_request(reader)) is not None:
            self.asked.append(asked)
            if b'"stream":true' in asked.body:
                writer.write(STREAM_HEAD + chunk(f"data: {self.name}\n\n".encode()))
                await writer.drain()
                await self.go.wait()
                writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            else:
                writer.write(answer({"name": self.name}, self.status))


class Link:
    """What lies between the gateway and a node. Once it is `cut`, nothing comes or goes, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: list[asyncio.StreamWriter] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)  # noqa: FBT003 - the socket's own word
        self.port: int = self._server.getsockname()[1]
        self._begin(self._accept())

    def cut(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self._open), return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)

    async def _accept(self) -> None:
        while True:
            near, _ = await asyncio.get_running_loop().sock_accept(self._server)
            self._begin(self._join(near))

    async def _join(self, near: socket.socket) -> None:
        try:
            ours = await asyncio.open_connection(sock=near)
        except asyncio.CancelledError:
            near.close()
            raise
        self._open.append(ours[1])
        theirs = await asyncio.open_connection("127.0.0.1", self._port)
        self._open.append(theirs[1])
        self._begin(self._carry(ours[0], theirs[1]))
        self._begin(self._carry(theirs[0], ours[1]))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        writer.close()


async def closes_unheard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes a request and is gone."""
    del writer
    await read_request(reader)


async def test_requests_are_spread_and_a_new_replica_is_taken_in(fleet: Fleet) -> None:
    one, two, three = Replica("one"), Replica("two"), Replica("three")
    session = await fleet.serve(one, two)
    assert Counter([(await fleet.ask()).json()["name"] for _ in range(10)]) == {"one": 5, "two": 5}
    await fleet.add(session, three, 3)
    await fleet.known(session, 3)
    streams = [asyncio.create_task(fleet.ask(stream=True)) for _ in range(30)]

    async def all_there() -> bool:
        return sum(len(replica.asked) for replica in (one, two, three)) == 40

    try:
        await fleet.site.until(all_there, "every stream has begun")
    finally:
        for replica in (one, two, three):
            replica.go.set()
    assert len(one.asked) - len(two.asked) in {-1, 0, 1}
    assert three.asked  # slowly at first (test_choice), for seconds that a machine may spend elsewhere
    assert {answer.status_code for answer in await asyncio.gather(*streams)} == {200}


async def test_many_at_once_are_spread_before_they_are_connected(fleet: Fleet, monkeypatch: Any) -> None:
    one, two = Replica("one"), Replica("two")
    route = await fleet.known(await fleet.serve(one, two), 2)
    go, connect = asyncio.Event(), AgentPath.connect

    async def later(*args: Any, **options: Any) -> Any:
        await go.wait()
        return await connect(*args, **options)

    monkeypatch.setattr(AgentPath, "connect", later)
    streams = [asyncio.create_task(fleet.ask(stream=True)) for _ in range(30)]

    async def chosen() -> bool:
        return sum(member.health.in_flight for member in route.members) == 30

    async def asked() -> bool:
        return len(one.asked) + len(two.asked) == 30

    try:
        await fleet.site.until(chosen, "an endpoint is chosen for every stream")
        go.set()
        await fleet.site.until(asked, "every stream has begun")
    finally:
        for event in (go, one.go, two.go):
            event.set()
    assert (len(one.asked), len(two.asked)) == (15, 15)
    assert {answer.status_code for answer in await asyncio.gather(*streams)} == {200}


async def test_who_drains_keeps_its_streams_and_gets_nothing_new(fleet: Fleet) -> None:
    one, two = Replica("one"), Replica("two")
    session = await fleet.serve(one, two)
    async with fleet.http.stream("POST", "/v1/completions", json={"model": "tiny", "stream": True}) as stream:
        pieces = stream.aiter_text()
        first = await anext(pieces)
        busy, other = (one, two) if "one" in first else (two, one)
        number = 1 if busy is one else 2
        await fleet.change(session, number, drain_at=session.updated_at)
        await fleet.known(session, 2, draining=1)
        assert {(await fleet.ask()).json()["name"] for _ in range(6)} == {other.name}
        await fleet.change(session, 3 - number, drain_at=session.updated_at)
        await fleet.known(session, 2, draining=2)
        assert (await fleet.ask()).status_code == 200  # all drain: they still work
        busy.go.set()
        assert "[DONE]" in "".join([piece async for piece in pieces])


async def test_a_killed_replica_costs_no_request_that_had_no_answer_yet(fleet: Fleet) -> None:
    one, two = Replica("one"), Replica("two")
    session = await fleet.serve(one, two)
    route = await fleet.known(session, 2)
    left = iter(range(300))
    answers: list[int] = []

    async def caller() -> None:
        for number in left:
            if number == 100:
                await fleet.drop(session, 1)
            answers.append((await fleet.ask()).status_code)

    await asyncio.gather(*(caller() for _ in range(8)))
    assert Counter(answers) == {200: 300}
    assert [fleet.member(route, number).health.failing for number in (1, 2)] == [True, False]
    shown = generate_latest(fleet.web.metrics.registry).decode()
    assert 'sluice_proxy_endpoints{state="fit"} 1.0' in shown
    assert 'sluice_proxy_endpoints{state="failing"} 1.0' in shown
    assert len(two.asked) >= 200


async def test_who_waits_for_a_node_that_vanished_is_answered_by_another(fleet: Fleet) -> None:
    asked = asyncio.Event()

    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        if await read_request(reader) is not None:
            asked.set()
        await reader.read()

    session = await fleet.serve(stuck, Replica("two"))
    first = fleet.member(await fleet.known(session, 2), 1).endpoint
    link = Link(first.port)
    try:
        await fleet.change(session, 1, endpoint=first.model_copy(update={"port": link.port}))
        await fleet.data.routes.refresh()
        member = fleet.member(await fleet.known(session, 2), 1)
        member.health.back(float("-inf"))  # it has been there for long
        callers = [asyncio.create_task(fleet.ask()) for _ in range(40)]
        async with asyncio.timeout(60):
            await asked.wait()
            link.cut()
            answers = [(await caller).json()["name"] for caller in callers]
        assert answers == ["two"] * 40
        assert member.health.failing
    finally:
        await link.close()


async def test_who_is_sick_gets_nothing_until_its_probe_is_well(fleet: Fleet) -> None:
    one, two = Replica("one"), Replica("two")
    session = await fleet.serve(one, two)
    route = await fleet.known(session, 2)
    two.status = "503 Service Unavailable"
    answers = [await fleet.ask() for _ in range(40)]
    assert {answer.json()["name"] for answer in answers} == {"one"}  # asked again, where it was safe
    assert fleet.member(route, 2).health.ill
    assert BAD_IN_A_ROW <= len(two.asked) < BAD_IN_A_ROW + 20  # and the probe's questions
    assert {asked.json["prompt"] for asked in two.asked[BAD_IN_A_ROW:]} <= {"hi"}
    two.status = "200 OK"

    async def back() -> bool:
        return not fleet.member(route, 2).health.ill

    await fleet.site.until(back, "the probe was answered")
    seen = len(two.asked)
    streams = [asyncio.create_task(fleet.ask(stream=True)) for _ in range(20)]

    async def asked_again() -> bool:
        return len(two.asked) > seen

    await fleet.site.until(asked_again, "it gets requests again")
    for replica in (one, two):
        replica.go.set()
    await asyncio.gather(*streams)


async def test_a_single_replica_that_answers_badly_is_still_asked(fleet: Fleet) -> None:
    one = Replica("one")
    one.status = "500 Internal Server Error"
    await fleet.serve(one)
    answers = [await fleet.ask() for _ in range(BAD_IN_A_ROW + 3)]
    assert {answer.status_code for answer in answers} == {500}
    assert {answer.json()["name"] for answer in answers} == {"one"}


async def test_what_may_not_reach_two_servers_reaches_one(fleet: Fleet) -> None:
    two = Replica("two")
    session = await fleet.serve(closes_unheard, two)
    statuses = Counter([(await fleet.ask(store=True)).status_code for _ in range(4)])
    assert statuses[502] >= 1
    assert len(two.asked) == statuses[200]
    assert {(await fleet.ask()).status_code for _ in range(4)} == {200}
    await fleet.known(session, 2)


@pytest.mark.parametrize("word", ["busy", "draining"])
async def test_what_an_agent_did_not_take_reaches_another_replica(fleet: Fleet, word: str) -> None:
    told = 0

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal told
        while await read_request(reader) is not None:
            told += 1
            writer.write(REFUSAL + f"x-sluice-agent: {word}".encode() + END)
            await writer.drain()

    two = Replica("two")
    session = await fleet.serve(refuses, two, recipe="app", name="web")
    route = await fleet.known(session, 2)
    for number in range(6):
        answer = await fleet.http.post("/s/web/", content=b"x" * number)
        assert (answer.status_code, answer.json()["name"]) == (200, "two")
    assert [len(asked.body) for asked in two.asked] == list(range(6))
    assert told >= 1
    assert fleet.member(route, 1).health.refusing is (word == "draining")
    assert told == 1 or word == "busy"


async def test_an_agent_that_drains_says_so_before_anybody_asks(fleet: Fleet) -> None:
    async def drains(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(DRAINING + END[2:])
        await writer.drain()

    two = Replica("two")
    session = await fleet.serve(drains, two)
    route = await fleet.known(session, 2)

    async def known() -> bool:
        return fleet.member(route, 1).health.refusing

    await fleet.site.until(known, "the agent was heard")
    assert {(await fleet.ask(store=True)).json()["name"] for _ in range(3)} == {"two"}


@pytest.mark.parametrize("fleet", [{"first_byte_seconds": 2}], indirect=True)
async def test_who_does_not_begin_to_answer_in_time_is_passed_over(fleet: Fleet) -> None:
    silent = asyncio.Event()

    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        await read_request(reader)
        silent.set()
        await reader.read()

    await fleet.serve(stuck, name="stuck", recipe="app")
    told = await fleet.http.get("/s/stuck/")
    assert (told.status_code, told.json()["code"]) == (504, "timed_out")
    assert silent.is_set()
    two = Replica("two")
    await fleet.serve(stuck, two)
    assert {(await fleet.ask()).json()["name"] for _ in range(2)} == {"two"}


async def test_requests_that_belong_together_go_to_one_replica(fleet: Fleet) -> None:
    replicas = [Replica(f"r{number}") for number in range(3)]
    await fleet.serve(*replicas, affinity="session")

    async def who(**headers: str) -> Any:
        body = {"model": "tiny", "prompt": "hi"}
        return (await fleet.http.post("/v1/completions", json=body, headers=headers)).json()["name"]

    homes = {str(number): await who(**{"X-Session-Id": str(number)}) for number in range(20)}
    assert set(homes.values()) == {"r0", "r1", "r2"}
    for number, home in homes.items():
        assert await who(**{"X-Session-Id": number}) == home


async def test_prompts_that_begin_alike_go_to_one_replica(fleet: Fleet) -> None:
    replicas = [Replica(f"r{number}") for number in range(3)]
    session = await fleet.serve(*replicas, affinity="prefix")
    await fleet.known(session, 3)
    start = "You are a helpful assistant. " * 200
    for number in range(10):
        await fleet.ask(prompt=f"{start}{number}")
    assert sorted(len(replica.asked) for replica in replicas) == [0, 0, 10]


async def test_the_servers_are_told_how_busy_each_session_is(fleet: Fleet) -> None:
    one, two = Replica("one"), Replica("two")
    session = await fleet.serve(one, two, max_in_flight=1)
    streams = [asyncio.create_task(fleet.ask(stream=True)) for _ in range(3)]

    async def load() -> tuple[int, int, dict[int, int]]:
        found = (await fleet.loads()).get(session.id)
        return (found.in_flight, found.waiting, found.by_attempt) if found else (0, 0, {})

    async def told() -> bool:
        return await load() == (2, 1, {1: 1, 2: 1})

    await fleet.site.until(told, "two in flight, one waits")
    for replica in (one, two):
        replica.go.set()
    assert {answer.status_code for answer in await asyncio.gather(*streams)} == {200}

    async def over() -> bool:
        return await load() == (0, 0, {})

    await fleet.site.until(over, "nothing is in flight")
    assert (await fleet.loads())[session.id].last_request_at is not None
