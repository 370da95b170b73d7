"""What is kept of a request's body: all of it, as long as the request may have to be sent again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.body import MOST_KEPT, Body
from gateway.client.framing import Chunked, Counted, Malformed

CHUNKS = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nt: u\r\n\r\n"


@given(st.binary(max_size=40), st.binary(max_size=20), st.lists(st.integers(0, 60), max_size=5))
def test_a_body_ends_where_its_length_says_however_it_comes(text: bytes, rest: bytes, cuts: list[int]) -> None:
    assert taken(Body(Counted(len(text))), text + rest, cuts) == (text, rest)


@given(st.binary(max_size=20), st.lists(st.integers(0, 60), max_size=5))
def test_chunks_are_kept_as_they_came(rest: bytes, cuts: list[int]) -> None:
    assert taken(Body(Chunked(trailers=True)), CHUNKS + rest, cuts) == (CHUNKS, rest)


def taken(body: Body, data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """What was kept of the pieces, and what belongs to the next request."""
    next_one, start = b"", 0
    for cut in [*sorted(cuts), len(data)]:
        mine, others = body.take(data[start:cut])
        body.keep(mine, sent=True)
        next_one, start = next_one + others, max(start, cut)
    assert body.at_hand
    assert body.size == len(body.text)
    return body.text, next_one


def test_what_was_sent_is_let_go_of_once_it_is_long() -> None:
    body = Body(Counted(2 * MOST_KEPT))
    body.keep(b"x" * MOST_KEPT, sent=True)
    assert (body.at_hand, len(body.text)) == (True, MOST_KEPT)
    body.keep(b"y", sent=True)
    assert (body.at_hand, body.text, body.size) == (False, b"", MOST_KEPT + 1)
    body.keep(b"z", sent=True)
    assert (body.at_hand, body.size) == (False, MOST_KEPT + 1)


def test_what_waits_to_be_sent_is_kept_whatever_its_length() -> None:
    body = Body(Counted(2 * MOST_KEPT))
    body.keep(b"x" * MOST_KEPT, sent=False)
    body.keep(b"y" * MOST_KEPT, sent=False)
    assert body.text == b"x" * MOST_KEPT + b"y" * MOST_KEPT
    body.shorten()
    assert (body.at_hand, body.text) == (False, b"")


def test_a_body_that_is_dropped_is_not_at_hand() -> None:
    body = Body(Counted(3))
    body.keep(b"abc", sent=False)
    body.drop()
    assert (body.at_hand, body.text) == (False, b"")


def test_a_body_that_is_no_http_is_refused() -> None:
    with pytest.raises(Malformed):
        Body(Chunked(trailers=True)).take(b"3\r\nabcd\r\n")
