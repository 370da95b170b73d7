"""Which endpoint answers: pure decisions over what is known of each."""

from collections import Counter

import pytest

from gateway.client.affinity import kin
from gateway.client.choice import Kin, choose
from gateway.client.health import BAD_IN_A_ROW, FIRST_REST, LONGEST_REST, SLOW_START_SECONDS, Health
from gateway.client.http1 import RequestHead
from gateway.client.routes import Route
from gateway.model.recipe import Affinity
from tests.client.fleet import a_route, an_endpoint

NOW = 1000.0
Asking = tuple[bytes, *tuple[str, ...]]


def chosen(route: Route, key: Kin | None = None, tried: tuple[int, ...] = ()) -> int:
    """The number of the endpoint that answers."""
    choice = choose((route,), [route.members[number] for number in tried], NOW, key)
    assert choice is not None
    return route.members.index(choice[1])


async def test_the_least_busy_answers_and_of_equals_the_one_asked_longest_ago() -> None:
    route = a_route("s", 3)
    for member, (busy, used) in zip(route.members, ((2, 1.0), (1, 5.0), (1, 4.0)), strict=True):
        member.health.in_flight, member.health.last_used = busy, used
    assert chosen(route) == 2
    assert chosen(route, tried=(2,)) == 1
    assert chosen(route, tried=(0, 1, 2)) == 2
    assert choose((a_route("none", 0),), (), NOW) is None


async def test_several_sessions_of_one_model_are_one_crowd() -> None:
    one, two = a_route("one", 1), a_route("two", 2)
    one.members[0].health.in_flight = two.members[0].health.in_flight = 1
    assert choose((one, two), (), NOW) == (two, two.members[1])


async def test_who_is_not_fit_answers_only_if_nobody_is() -> None:
    route = a_route("s", 4)
    fit, draining, failing, refusing = (member.health for member in route.members)
    fit.in_flight = 50
    draining.draining = failing.failing = refusing.refusing = True
    assert [chosen(route), chosen(route, tried=(0,)), chosen(route, tried=(0, 1))] == [0, 1, 2]
    failing.failing, failing.ill = False, True
    assert chosen(route, tried=(0, 1)) == 2
    assert chosen(route, tried=(0, 1, 2)) == 3
    route.members = route.members[1:2]
    assert chosen(route) == 0  # all drain: they still work


async def test_who_is_new_gets_its_share_by_and_by() -> None:
    route = a_route("s", 2)
    old, new = (member.health for member in route.members)
    new.back(NOW)
    old.in_flight = 8
    assert chosen(route) == 0
    old.in_flight = 10
    assert chosen(route) == 1
    old.in_flight = 1
    new.back(NOW - SLOW_START_SECONDS)
    assert chosen(route) == 1


def test_many_bad_answers_in_a_row_are_an_illness_and_rests_grow() -> None:
    health = Health()
    for _ in range(BAD_IN_A_ROW - 1):
        assert not health.answered(500)
    assert not health.answered(404)
    for _ in range(BAD_IN_A_ROW - 1):
        assert not health.answered(503)
    assert not health.answered(501)  # that is the request's fault
    for _ in range(BAD_IN_A_ROW - 1):
        assert not health.unanswered()
    assert health.answered(502)
    assert health.ill
    assert not health.answered(502)  # told once
    rests = [health.rest() for _ in range(8)]
    assert (rests[0], rests[1], rests[-1]) == (FIRST_REST, 2 * FIRST_REST, LONGEST_REST)
    health.back(NOW)
    assert (health.rank, health.rest()) == (0, LONGEST_REST)  # until it has given a good answer
    assert not health.answered(200)
    assert health.rest() == FIRST_REST


async def test_what_belongs_together_stays_together_until_it_is_too_much() -> None:
    route = a_route("s", 4)
    keys = [Kin(b"%d" % number, bounded=True) for number in range(400)]
    before = [chosen(route, key) for key in keys]
    shares = Counter(before)
    assert set(shares) == {0, 1, 2, 3}
    assert min(shares.values()) > 50
    home = before[0]
    for member in route.members:
        member.health.in_flight = 4
    assert chosen(route, keys[0]) == home
    route.members[home].health.in_flight = 8
    assert chosen(route, keys[0]) != home
    assert chosen(route, Kin(keys[0].key, bounded=False)) == home


async def test_who_comes_or_goes_moves_only_its_own_share() -> None:
    route = a_route("s", 4)
    keys = [Kin(b"%d" % number, bounded=False) for number in range(200)]
    before = [chosen(route, key) for key in keys]
    route.members[3].health.failing = True
    after = [chosen(route, key) for key in keys]
    assert all(new == old for old, new in zip(before, after, strict=True) if old != 3)
    assert {new for old, new in zip(before, after, strict=True) if old == 3} == {0, 1, 2}
    route.members = (*route.members[:3], an_endpoint("another"))
    assert all(chosen(route, key) in {old, 3} for old, key in zip(before, keys, strict=True) if old != 3)


def head(*lines: str) -> RequestHead:
    return RequestHead("\r\n".join(["POST /v1/x HTTP/1.1", "Host: x", *lines, "", ""]).encode())


def key(affinity: Affinity, body: bytes = b"", *lines: str, caller: str = "ada") -> bytes | None:
    found = kin(affinity, head(*lines), caller, body)
    return found.key if found is not None else None


def test_a_conversation_belongs_together_by_how_it_begins() -> None:
    first = b'{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]}'
    later = first[:-2] + b', {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}], "x": 1}'
    other = first.replace(b'"a"', b'"z"')
    assert key("prefix", first) == key("prefix", later) != key("prefix", other)
    long = b'{"prompt": "' + b"x" * 5000
    assert key("prefix", long + b'1"}') == key("prefix", long + b'2"}') is not None
    assert key("prefix", b'{"input": ["a"]}') != key("prefix", b'{"input": ["b"]}')
    for odd in (b"{}", b'{"messages": []}'):
        assert key("prefix", odd) is None
    assert key("prefix", b'{"messages": [1]}') is not None
    assert key("prefix") is None
    assert key("none", first) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((b'{"user": "u"}', "X-Session-Id: 1"), (b'{"user": "v"}', "X-Session-Id: 1"), True),
        ((b"", "X-Session-Id: 1"), (b"", "X-Session-Id: 2"), False),
        ((b'{"user": "u"}', "Cookie: sluice-session=a"), (b'{"user": "u"}', "X: y"), True),
        ((b'{"user": "u"}',), (b'{"user": "v"}',), False),
        ((b"", "Cookie: sluice-session=a"), (b"", "Cookie: x=1; sluice-session=a"), True),
        ((b"", "Cookie: sluice-session=a"), (b"", "Cookie: sluice-session=b"), False),
        ((b"",), (b"{}",), True),
    ],
)
def test_a_session_is_named_by_header_body_browser_or_caller(one: Asking, other: Asking, *, same: bool) -> None:
    assert (key("session", *one) == key("session", *other)) is same
    assert key("session", caller="ada") != key("session", caller="bob")
