"""Events that go the short way arrive as those that go the long one, however the bytes of a stream are cut."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.agent.landing import Bytes
from gateway.client.flow import Flow
from gateway.client.framing import Chunked, Malformed
from gateway.client.usage import Tail

USED = b'data: {"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'


class Caller(asyncio.WriteTransport):
    """Gets the events."""

    def __init__(self) -> None:
        super().__init__()
        self.got = b""

    def write(self, data: Bytes | bytearray) -> None:
        self.got += data


class LongWay:
    """What an exchange does with the body of an answer."""

    def __init__(self, caller: Caller) -> None:
        self.frame, self.tail, self.caller = Chunked(trailers=True), Tail(stream=True), caller
        self.pieces = 0

    def answered(self, data: Bytes) -> None:
        self.pieces += 1
        size = self.frame.take(data)
        self.tail.add(data[:size])
        self.caller.write(data[:size])

    def broke(self, why: str, *, whole: bool) -> None:
        raise AssertionError(why, whole)

    def congested(self) -> None: ...

    def relieved(self) -> None: ...


def chunk(data: bytes, line: bytes = b"%x") -> bytes:
    return line % len(data) + b"\r\n" + data + b"\r\n"


EVENTS = st.lists(st.binary(min_size=1, max_size=40) | st.just(USED), max_size=12)
LINES = st.sampled_from([b"%x", b"%X", b"00%x", b"%x ", b"%x;a=b", b'%x;name="a long one, longer than most"'])
ENDS = st.sampled_from([b"0\r\n\r\n", b"00;x\r\n\r\n", b"0\r\nname: value\r\n\r\n", b""])


@given(events=EVENTS, lines=st.lists(LINES, min_size=12), end=ENDS, cuts=st.sets(st.integers(0, 600)))
def test_it_is_the_same_both_ways(events: list[bytes], lines: list[bytes], end: bytes, cuts: set[int]) -> None:
    chunks = [chunk(event, line) for event, line in zip(events, lines, strict=False)]
    text, at = b"".join([*chunks, end]), 0
    places = {0, len(text), *(cut for cut in cuts if cut < len(text))}
    for one in chunks:  # and between two events, as they mostly come
        at += len(one)
        places.add(at)
    short, long = LongWay(Caller()), LongWay(Caller())
    flow = Flow(short, short.frame, short.tail, short.caller)
    for begin, stop in pairwise(sorted(places)):
        flow.answered(text[begin:stop])
        long.answered(text[begin:stop])
    assert short.caller.got == long.caller.got == text
    assert short.frame.done == long.frame.done == bool(end)
    assert short.tail.usage() == long.tail.usage()


def test_whole_events_go_the_short_way() -> None:
    long = LongWay(Caller())
    flow = Flow(long, long.frame, long.tail, long.caller)
    for _ in range(3):
        flow.answered(chunk(b"data: x\n\n"))
    assert long.pieces == 0
    flow.answered(chunk(b"data: y\n\n")[:5])
    flow.answered(chunk(b"data: y\n\n")[5:])
    assert long.pieces == 2
    flow.answered(chunk(USED))
    assert long.pieces == 2
    flow.answered(memoryview(chunk(b"data: z\n\n")))
    flow.answered(b"0\r\n\r\n")
    assert (long.pieces, long.frame.done) == (4, True)
    assert long.tail.usage() == (3, 4)


@pytest.mark.parametrize(
    "bad", [b"+1\r\nx\r\n", b"1_0\r\n" + b"x" * 16 + b"\r\n", b"1\r\nxyz", b" 1\r\nx\r\n", b"1\nx\r\n"]
)
def test_what_is_no_chunk_is_none_on_the_short_way_either(bad: bytes) -> None:
    long = LongWay(Caller())
    flow = Flow(long, long.frame, long.tail, long.caller)
    with pytest.raises(Malformed):
        flow.answered(bad)
    assert not long.caller.got
