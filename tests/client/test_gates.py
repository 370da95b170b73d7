"""One gate a session, and lines before several of them: who is let in, where, and that every place is given back."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.client.choice import Kin
from gateway.client.limits import Limits, Ticket
from gateway.errors import Overloaded
from gateway.model.principal import Principal
from gateway.settings import ProxySettings
from tests.client.fleet import a_fleet, a_route, an_endpoint
from tests.services import Asked, answer, read_request
from tests.waiting import until_so

if TYPE_CHECKING:
    from gateway.client.routes import Route

ADA = Principal(name="ada")


def where(ticket: Ticket) -> str:
    """The session at whose gate it is inside."""
    return ticket.gate.route.id if ticket.gate is not None else ""


def sent(ticket: Ticket, *tried: Any) -> str:
    """The session whose replica is asked."""
    choice = ticket.choose(tried, None)
    return choice[0].id if choice is not None else ""


def limits(each: int = 1, line: int = 100, **more: Any) -> Limits:
    return Limits(ProxySettings(session_in_flight=each, session_queue=line, **more))


async def test_a_session_has_one_gate_however_it_is_asked_for() -> None:
    doors, one, two = limits(2), a_route("s"), a_route("t")
    by_model = [doors.enter(ADA, (one, two), 0.0) for _ in range(4)]
    for ticket in by_model:
        choice = ticket.choose((), None)
        assert choice is not None
        choice[1].begin()
    assert sorted(map(where, by_model)) == ["s", "s", "t", "t"]
    by_name = doors.enter(ADA, (one,), 0.0)
    assert (where(by_name), doors.waiting(), doors.room(one), doors.room(two)) == ("", {"s": 1}, False, False)
    next(ticket for ticket in by_model if where(ticket) == "t").done()
    assert (where(by_name), doors.room(one), doors.room(two)) == ("", False, True)
    next(ticket for ticket in by_model if where(ticket) == "s").done()
    assert (where(by_name), doors.waiting()) == ("s", {})


async def test_who_may_go_in_at_several_gates_goes_where_a_place_comes_free_first_by_turns() -> None:
    doors, one, two = limits(), a_route("s"), a_route("t")
    in_s, in_t = doors.enter(ADA, (one,), 0.0), doors.enter(ADA, (two,), 0.0)
    first, second, third = (doors.enter(ADA, routes, 0.0) for routes in ((one,), (one, two), (two,)))
    assert doors.waiting() == {"s": 2, "t": 2}
    in_t.done()
    assert list(map(where, (first, second, third))) == ["", "t", ""]
    assert doors.waiting() == {"s": 1, "t": 1}
    assert sent(second) == "t"
    second.done()
    in_s.done()
    assert list(map(where, (first, second, third))) == ["s", "", "t"]


async def test_the_replica_is_of_the_session_whose_place_is_held() -> None:
    doors, one, two = limits(), a_route("s", 2), a_route("t", 2)
    for route in (one, two):
        for number, member in enumerate(route.members):
            member.health.in_flight = number
    two.members[0].health.in_flight = 9
    tickets = [doors.enter(ADA, (one, two), 0.0) for _ in range(3)]
    assert [(sent(ticket), where(ticket)) for ticket in tickets] == [("s", "s"), ("s", "s"), ("t", "t")]
    keys = [Kin(b"%d" % number, bounded=False) for number in range(40)]
    for ticket in tickets:
        ticket.done()
    went = []
    for key in keys:
        ticket = doors.enter(ADA, (one, two), 0.0)
        choice = ticket.choose((), key)
        assert choice is not None
        assert where(ticket) == choice[0].id
        went.append(choice[1])
        ticket.done()
    assert len(set(went)) == 4  # what belongs together is at home in either session


async def test_a_retry_takes_the_place_along_or_stands_in_line_for_it() -> None:
    doors, one, two = limits(queue_seconds=600), a_route("s"), a_route("t")
    moved = doors.enter(ADA, (one, two), 0.0)
    assert sent(moved) == "s"
    assert sent(moved, *one.members) == "t"
    assert (doors.room(one), doors.room(two)) == (True, False)
    other = doors.enter(ADA, (one, two), 0.0)
    assert sent(other) == "s"
    later = doors.enter(ADA, (two,), 0.0)
    assert sent(other, *one.members) == ""
    waits = asyncio.create_task(other.wait(tried=one.members))
    await until_so(lambda: doors.waiting() == {"t": 2}, what="it stands in line there")
    assert doors.room(one)
    moved.done()
    assert (where(later), where(other)) == ("t", "")
    later.done()
    assert await waits
    assert sent(other, *one.members) == "t"
    other.done()
    assert (doors.room(one), doors.room(two), doors.waiting()) == (True, True, {})


async def test_nobody_is_sent_where_nobody_is_fit_while_others_are() -> None:
    doors, one, two, asleep = limits(), a_route("s"), a_route("t"), a_route("u", 0)
    one.members[0].health.failing = True
    routes = (one, two, asleep)
    first, second = (doors.enter(ADA, routes, 0.0) for _ in range(2))
    assert (where(first), where(second), doors.waiting()) == ("t", "", {"t": 1})
    one.members[0].health.failing = False
    assert second.queue()
    assert (sent(second), doors.waiting()) == ("s", {})


async def test_a_session_that_ends_while_it_is_held_is_left_for_another_and_nobody_overtakes() -> None:
    doors, one, two = limits(), a_route("s"), a_route("t")
    in_s, in_t = doors.enter(ADA, (one,), 0.0), doors.enter(ADA, (two,), 0.0)
    early, late = doors.enter(ADA, (one, two), 0.0), doors.enter(ADA, (two,), 0.0)
    in_s.done()
    one.members = ()
    assert (where(early), sent(early)) == ("s", "")
    waits = asyncio.create_task(early.wait())
    await until_so(lambda: doors.waiting() == {"t": 2}, what="it stands before the other")
    in_t.done()
    assert await waits
    assert (sent(early), where(late)) == ("t", "")
    two.members = ()
    assert not await early.wait()  # nobody answers at all


async def test_a_line_is_bounded_at_each_gate() -> None:
    doors, one, two = limits(1, 1), a_route("s"), a_route("t", max_queue=2)
    doors.enter(ADA, (one,), 0.0)
    doors.enter(ADA, (two,), 0.0)
    doors.enter(ADA, (one,), 0.0)
    with pytest.raises(Overloaded):
        doors.enter(ADA, (one,), 0.0)
    for number in (1, 2):
        doors.enter(ADA, (one, two), 0.0)
        assert doors.waiting() == {"s": 1, "t": number}
    with pytest.raises(Overloaded):
        doors.enter(ADA, (one, two), 0.0)


async def test_who_leaves_in_the_very_moment_of_being_let_in_gives_the_place_back() -> None:
    doors, one, two = limits(queue_seconds=600), a_route("s"), a_route("t")
    holds = doors.enter(ADA, (one,), 0.0), doors.enter(ADA, (two,), 0.0)
    leaving, next_one = (doors.enter(ADA, (one, two), 0.0) for _ in range(2))
    waits = asyncio.create_task(leaving.wait())
    await until_so(lambda: doors.waiting() == {"s": 2, "t": 2}, what="both stand in line")
    holds[0].done()
    assert where(leaving) == "s"
    waits.cancel()
    leaving.done()
    leaving.done()
    assert (where(leaving), where(next_one), doors.waiting()) == ("", "s", {})
    await asyncio.wait({waits})
    assert waits.cancelled()
    next_one.done()
    assert (doors.room(one), doors.room(two)) == (True, False)


class Doors(RuleBasedStateMachine):
    """Callers of three sessions, by name and by model, whose replicas come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.routes: list[Route]
        self.tickets: list[Ticket] = []
        self.before: dict[str, int] = {}

    def teardown(self) -> None:
        self.does(self._all_go())
        self.runner.close()

    async def _all_go(self) -> None:
        for ticket in self.tickets:
            ticket.done()
        for route in self.routes:
            gate = self.doors.gates.of(route)
            assert (gate.inside, gate.line) == (0, [])

    def does(self, work: Coroutine[Any, Any, None]) -> None:
        self.before = {route.id: self.doors.gates.of(route).inside for route in self.routes}
        self.runner.run(work)

    @initialize(each=st.integers(1, 2), line=st.integers(0, 3))
    def begin(self, each: int, line: int) -> None:
        async def make() -> None:
            self.doors = limits(each, line)
            self.routes = [a_route(name) for name in "stu"]

        self.runner.run(make())

    @rule(mask=st.integers(1, 7))
    def ask(self, mask: int) -> None:
        async def enter() -> None:
            routes = tuple(route for number, route in enumerate(self.routes) if mask >> number & 1)
            try:
                self.tickets.append(self.doors.enter(ADA, routes, 0.0))
            except Overloaded:
                assert not any(self.doors.room(route) for route in routes if route.members)

        self.does(enter())

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), fail=st.sampled_from("-stu"))
    def attempt(self, data: st.DataObject, fail: str) -> None:
        async def choose() -> None:
            ticket = data.draw(st.sampled_from(self.tickets))
            tried = [member for route in self.routes if route.id == fail for member in route.members]
            choice = ticket.choose(tried, None)
            assert choice is None or where(ticket) == choice[0].id

        self.does(choose())

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        async def leave() -> None:
            ticket = data.draw(st.sampled_from(self.tickets))
            ticket.done()
            ticket.done()
            assert where(ticket) == ""
            self.tickets.remove(ticket)

        self.does(leave())

    @rule(number=st.integers(0, 2), members=st.integers(0, 2))
    def replicas(self, number: int, members: int) -> None:
        async def change() -> None:
            route = self.routes[number]
            route.members = tuple(an_endpoint(f"{route.id}-{one}") for one in range(members))
            for ticket in self.tickets:
                ticket.queue()  # as who stands in line does by itself, every second

        self.does(change())

    @invariant()
    def places(self) -> None:
        if not self.tickets:
            return
        gates = [self.doors.gates.of(route) for route in self.routes]
        for gate in gates:
            assert gate.inside == sum(ticket.gate is gate for ticket in self.tickets)
            assert gate.inside <= max(gate.slots, self.before[gate.route.id])  # nobody came in beyond the places
            assert not (gate.line and gate.inside < gate.slots)
            assert [place.number for place in gate.line] == sorted(place.number for place in gate.line)
        for ticket in self.tickets:
            assert (ticket.gate is None) == any(ticket in gate.line for gate in gates)


TestDoors = Doors.TestCase


class Crowded:
    """A model server that answers when it is told to, and knows how many it had at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.go = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await read_request(reader)) is not None:
            await self.answer(asked, writer)

    async def answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.go.wait()
        self.now -= 1
        writer.write(answer({"asked": asked.json["model"]}))


async def test_no_session_gets_more_at_once_than_it_takes_however_it_is_asked_for(tmp_path: Any) -> None:
    one, two = Crowded(), Crowded()
    async with a_fleet(tmp_path) as fleet:
        sessions = [
            await fleet.serve(server, name=name, max_in_flight=2) for name, server in (("one", one), ("two", two))
        ]

        def ask(*models: str) -> list[asyncio.Task[Any]]:
            return [
                asyncio.create_task(fleet.http.post("/v1/completions", json={"model": model, "prompt": "hi"}))
                for model in models
            ]

        asked = ask(*["tiny"] * 4)
        await until_so(lambda: one.now + two.now == 4, what="those by model are there")
        asked += ask("one", "one", "two", "tiny")
        waiting = {sessions[0].id: 3, sessions[1].id: 2}
        await until_so(
            lambda: fleet.data.limits.waiting() == waiting or one.now + two.now > 4, what="the others stand in line"
        )
        assert (one.most, two.most) == (2, 2)
        two.go.set()
        await until_so(lambda: sum(task.done() for task in asked) == 4, what="those at the other are answered")
        assert fleet.data.limits.waiting() == {sessions[0].id: 2}
        one.go.set()
        assert {task.result().status_code for task in (await asyncio.wait(asked))[0]} == {200}
        assert (one.most, two.most, fleet.data.limits.waiting()) == (2, 2, {})


async def test_who_got_no_answer_waits_for_a_place_at_the_other_session(tmp_path: Any) -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.close()

    other = Crowded()
    async with a_fleet(tmp_path) as fleet:
        broken = await fleet.serve(breaks, name="one", max_in_flight=1)
        busy = await fleet.serve(other, name="two", max_in_flight=1)
        first = asyncio.create_task(fleet.http.post("/v1/completions", json={"model": "two", "prompt": "hi"}))
        await until_so(lambda: other.now == 1, what="the other is busy")
        second = asyncio.create_task(fleet.ask())
        await until_so(lambda: fleet.data.limits.waiting() == {busy.id: 1}, what="it stands in line there")
        assert fleet.data.limits.room(await fleet.known(broken, 1))
        other.go.set()
        assert [(await task).status_code for task in (first, second)] == [200, 200]
        assert (other.most, fleet.data.limits.waiting()) == (1, {})
