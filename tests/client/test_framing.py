"""Bodies measured byte by byte: however they are cut, the same bytes belong to them."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.framing import Chunked, Counted, Frame, Malformed, UntilClose
from gateway.client.http1 import Heads, RequestHead, ResponseHead
from gateway.client.websocket import Frames
from tests.services import chunk

AFTER = b"GET / HTTP/1.1\r\n"


def taken(frame: Frame, data: bytes, cuts: list[int]) -> tuple[int, bool]:
    """How many bytes of `data`, cut into pieces, the frame takes as its own."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    total = 0
    for begin, end in pairwise(edges):
        if frame.done:
            break
        total += frame.take(data[begin:end])
    return total, frame.done


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(0, 10_000)), st.booleans())
def test_chunks_are_followed_however_they_are_cut(pieces: list[bytes], cuts: list[int], trailer: bool) -> None:
    end = b"0\r\nx-sum: 1\r\n\r\n" if trailer else b"0\r\n\r\n"
    body = b"".join(chunk(piece) for piece in pieces) + end
    assert taken(Chunked(trailers=True), body + AFTER, cuts) == (len(body), True)


@given(st.integers(0, 200), st.lists(st.integers(0, 10_000)))
def test_a_counted_body_ends_where_it_said(length: int, cuts: list[int]) -> None:
    body = b"x" * length
    assert taken(Counted(length), body + AFTER, cuts) == (length, True)
    assert taken(UntilClose(), body, cuts) == (length, False)


@pytest.mark.parametrize(
    "body",
    [
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"5_0\r\n",
        b" 5\r\nhello\r\n",
        b"\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello\n\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\n",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\na: b\n\r\n",
        b"5" * 5000,
    ],
)
def test_chunks_that_could_be_read_in_two_ways_are_refused(body: bytes) -> None:
    for cuts in ([], list(range(len(body)))):
        with pytest.raises(Malformed):
            taken(Chunked(trailers=True), body, cuts)


def test_trailers_of_requests_are_refused() -> None:
    with pytest.raises(Malformed):
        Chunked(trailers=False).take(b"0\r\nauthorization: x\r\n\r\n")


@given(st.lists(st.integers(0, 70_000), max_size=4), st.lists(st.integers(0, 200_000), max_size=20))
def test_websocket_frames_are_followed_however_they_are_cut(sizes: list[int], cuts: list[int]) -> None:
    def one(size: int) -> bytes:
        if size < 126:
            return bytes([0x82, size]) + bytes(size)
        return (b"\x82\x7e%b" % size.to_bytes(2) if size < 1 << 16 else b"\x82\x7f%b" % size.to_bytes(8)) + bytes(size)

    data, frames = b"".join(one(size) for size in sizes), Frames()
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for begin, end in pairwise(edges):
        frames.take(data[begin:end])
    assert frames.between
    frames.take(b"\x82")
    assert not frames.between


def test_behind_a_servers_close_frame_nothing_of_ours_may_stand() -> None:
    frames = Frames()
    frames.take(b"\x89\x01\x88")  # a ping whose content looks like one
    assert frames.between
    frames.take(b"\x88")
    frames.take(b"\x02\x03\xe8")
    assert not frames.between


def test_chunks_that_come_one_by_one_are_measured_like_those_that_do_not() -> None:
    frame = Chunked(trailers=False)
    for size in (1, 15, 16, 4096, 70_000):
        piece = chunk(b"\r" * size)
        assert (frame.take(piece), frame.take(memoryview(piece)), frame.between) == (len(piece), len(piece), True)
    for wrong in (b"3\r\nabcd\r\n", b"4\r\nabc\r\n\r\n", b"3;\x00\r\nabc\r\n"):
        with pytest.raises(Malformed):
            Chunked(trailers=False).take(wrong)
    assert (frame.take(b"0\r\n\r\n" + AFTER), frame.done) == (5, True)


def head(text: str) -> RequestHead:
    return RequestHead(text.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n")


def test_a_head_is_read_once_and_written_anew() -> None:
    read = head(
        "GET /s/web/a?b=c HTTP/1.1\nHost: h\nConnection: x-own, content-length\nX-Own: 1\nKeep: 2\nContent-Length: 3"
    )
    assert (read.method, read.path, read.query, read.length) == (b"GET", b"/s/web/a", b"b=c", 3)
    assert read.end_to_end() == [(b"host", b"h"), (b"keep", b"2"), (b"content-length", b"3")]
    assert read.lines(b"/a", [(b"a", b"b")]) == b"GET /a HTTP/1.1\r\na: b\r\n"
    assert not head("GET / HTTP/1.0\nConnection: keep-alive").keeps_alive
    assert not head("GET / HTTP/1.1\nHost: h\nConnection: Close").keeps_alive


@pytest.mark.parametrize(
    "text",
    [
        "GET / HTTP/2.0\nHost: h",
        "CONNECT a:1 HTTP/1.1\nHost: h",
        "GET / HTTP/1.1",
        "GET / HTTP/1.1\nHost: a\nHost: b",
        "GET / HTTP/1.1\nHost: h\nAuthorization: a\nAuthorization: b",
        "POST / HTTP/1.0\nHost: h\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: gzip, chunked",
        "GET / HTTP/1.1\nHost: h\n" + "\n".join(f"x{number}: 1" for number in range(300)),
    ],
)
def test_heads_that_are_not_taken(text: str) -> None:
    with pytest.raises(Malformed):
        head(text)


LENGTHS = st.sampled_from(
    [
        "Content-Length: 7",
        "Content-Length: 12",
        "content-length:0",
        "Content-Length: 007",
        "Content-Length:  7 ",
        "Content-Length: 7, 7",
        "Content-Length: -7",
        "Content-Length: 7\nContent-Length: 7",
        "Content-Length: 7\nContent-Length: 12",
        "Content-Length: 99999999999999999999",
        "Content-Length: \u0667",
        "X-Content-Length: 7",
        "Transfer-Encoding: chunked",
        "Content-Length: 7\nTransfer-Encoding: chunked",
        "Connection: close",
        "X: 1",
    ]
)
FIRST = st.sampled_from(["POST /v1/a?b HTTP/1.1", "GET /c HTTP/1.1", "POST /v1/a?b HTTP/1.0"])
ANSWERS = st.sampled_from(["HTTP/1.1 200 OK", "HTTP/1.1 500 Oh no", "HTTP/1.0 200 OK"])
FIELDS = st.lists(st.sampled_from(["Host: h", "Host: i", "A: b", "Cookie: a"]), max_size=3)


def told(parse: Callable[[bytes], RequestHead | ResponseHead], text: bytes) -> list[object] | str:
    """All that a head says, or why it is none."""
    try:
        read = parse(text)
    except Malformed as error:
        return str(error)
    names = [name for kind in type(read).__mro__ for name in getattr(kind, "__slots__", ()) if name != "made"]
    return [getattr(read, name) for name in names]


@pytest.mark.parametrize(("kind", "first"), [(RequestHead, FIRST), (ResponseHead, ANSWERS)])
@given(data=st.data())
def test_a_head_like_the_one_before_says_what_it_would_say_alone(
    kind: type[RequestHead | ResponseHead], first: st.SearchStrategy[str], data: st.DataObject
) -> None:
    one = st.tuples(first, FIELDS, LENGTHS, FIELDS)
    heads: Heads[RequestHead | ResponseHead] = Heads(kind)
    alike = data.draw(one)
    for _ in range(data.draw(st.integers(2, 6))):
        line, before, length, after = alike if data.draw(st.booleans()) else data.draw(one)
        if data.draw(st.booleans()):
            length = data.draw(LENGTHS)
        text = "\r\n".join([line, *before, *length.split("\n"), *after, "", ""]).encode()
        assert told(heads.read, text) == told(kind, text)


def test_what_was_made_of_a_head_is_there_for_the_next_like_it() -> None:
    heads = Heads(RequestHead)
    text = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nA: %b\r\n\r\n"
    first = heads.read(text % (5, b"b"))
    first.made["lines"] = b"made"
    assert heads.read(text % (5, b"b")).made == heads.read(text % (17, b"b")).made == {"lines": b"made"}
    assert heads.read(text % (17, b"c")).made == {}
    assert first.length == 5


@pytest.mark.parametrize(
    ("text", "method", "kind"),
    [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5", b"GET", Counted),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5", b"HEAD", Counted),
        ("HTTP/1.1 304 Not Modified", b"GET", Counted),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked", b"GET", Chunked),
        ("HTTP/1.0 200 OK", b"GET", UntilClose),
    ],
)
def test_how_an_answer_is_framed(text: str, method: bytes, kind: type[Frame]) -> None:
    frame = ResponseHead(text.encode() + b"\r\n\r\n").frame(method)
    assert type(frame) is kind
    assert frame.done is (method == b"HEAD" or "304" in text)
