"""Following HTTP/1.1 from outside: whatever the pieces, what is in flight is known."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.agent.http_watch import HttpWatch

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED_POST = b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n"
HEAD = b"HEAD /x HTTP/1.1\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
NOT_MODIFIED = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 900\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
TRAILERS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 5\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEAD_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n"

PAIRS = [
    (GET, PLAIN),
    (POST, PLAIN),
    (CHUNKED_POST, STREAM),
    (GET, TRAILERS),
    (GET, EMPTY),
    (GET, NOT_MODIFIED),
    (POST, CONTINUE + PLAIN),
    (HEAD, HEAD_ANSWER),
]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(marks)]


@given(
    st.lists(st.sampled_from(PAIRS), min_size=1, max_size=6),
    st.lists(st.integers(0, 10_000), max_size=12),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_one_after_another_in_any_pieces(pairs: list[tuple[bytes, bytes]], cuts: list[int], others: list[int]) -> None:
    watch = HttpWatch()
    for count, (request, answer) in enumerate(pairs, 1):
        for piece in pieces(request, cuts):
            watch.sent(piece)
            assert watch.in_flight == 1
        for piece in pieces(answer, others):
            assert watch.in_flight == 1
            watch.answered(piece)
        assert (watch.in_flight, watch.requests, watch.opaque) == (0, count, False)


@given(st.lists(st.sampled_from(PAIRS), min_size=1, max_size=6), st.lists(st.integers(0, 10_000), max_size=30))
def test_pipelined_in_any_pieces(pairs: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    watch = HttpWatch()
    for piece in pieces(b"".join(request for request, _ in pairs), cuts):
        watch.sent(piece)
    assert watch.in_flight == len(pairs)
    for piece in pieces(b"".join(answer for _, answer in pairs), cuts):
        watch.answered(piece)
    assert (watch.in_flight, watch.opaque) == (0, False)


def test_an_answer_without_a_length_lasts_until_the_end() -> None:
    watch = HttpWatch()
    watch.sent(GET)
    watch.answered(b"HTTP/1.0 200 OK\r\n\r\nabc" + b"x" * 100_000)
    assert watch.in_flight == 1


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00", b"SSH-2.0-x\r\n\r\n"]
)
def test_another_protocol_is_opaque(answer: bytes) -> None:
    watch = HttpWatch()
    watch.sent(GET)
    watch.answered(answer)
    assert watch.opaque
    watch.sent(b"\x00")
    watch.answered(b"\x00")


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_no_bytes_break_it(sent: bytes, answered: bytes) -> None:
    watch = HttpWatch()
    watch.sent(sent)
    watch.answered(answered)
    assert watch.in_flight >= 0
