"""Many streams over one connection, both ends in one program and every byte between them in our hands."""

import asyncio
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.agent.landing import Bytes
from gateway.agent.mux import BEGIN, DATA, HEAD, LONGEST, ROOM, WIDEST, WINDOW, Mux, Stream


class End:
    """The handler of a stream, which writes down what it hears."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        stream.handler = self
        self.got = bytearray()
        self.over = self.gone = False
        self.slow = 0

    def received(self, data: Bytes) -> None:
        assert isinstance(data, bytes), "it may be kept"
        self.got += data

    def ended(self) -> None:
        self.over = True

    def lost(self) -> None:
        assert not self.gone, "told once"
        self.gone = True

    def choke(self) -> None:
        self.slow += 1

    def unchoke(self) -> None:
        self.slow -= 1


class Pair:
    """Two ends, and the wire between them: `pump` carries over what was written, cut wherever it likes."""

    def __init__(self) -> None:
        self.wires: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self.aborted = [False, False]
        self.accepted: list[End] = []
        self.ours = Mux(self.wires[0].append, self._aborts(0))
        self.theirs = Mux(self.wires[1].append, self._aborts(1), self._accept)

    def open(self) -> End:
        return End(self.ours.open())

    async def pump(self, cut: random.Random | None = None) -> None:
        """Until nothing more is on its way."""
        while True:
            for _ in range(3):
                await asyncio.sleep(0)
            if not any(self.wires):
                return
            for wire, end in zip(self.wires, (self.theirs, self.ours), strict=True):
                text = b"".join(wire)
                wire.clear()
                at = 0
                while at < len(text):
                    size = cut.randint(1, 3000) if cut else len(text)
                    end.received(memoryview(text)[at : at + size])
                    at += size

    def _accept(self, stream: Stream) -> End:
        self.accepted.append(End(stream))
        return self.accepted[-1]

    def _aborts(self, side: int) -> "_Abort":
        return _Abort(self.aborted, side)


class _Abort:
    def __init__(self, said: list[bool], side: int) -> None:
        self._said, self._side = said, side

    def __call__(self) -> None:
        self._said[self._side] = True


PIECES = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(1, 3 * LONGEST)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(pieces=PIECES, seed=st.integers(0, 1 << 30))
def test_what_is_written_arrives_whole_in_order_and_where_it_belongs(
    pieces: list[tuple[int, bool, int]], seed: int
) -> None:
    """Whoever writes, however long the pieces are, and wherever the connection cuts them."""

    async def play() -> None:
        pair, cut = Pair(), random.Random(seed)  # noqa: S311 - cuts, hides nothing
        opened = [pair.open() for _ in range(5)]
        await pair.pump(cut)
        said = {(side, number): bytearray() for side in (0, 1) for number in range(5)}
        for number, ours, size in pieces:
            data = cut.randbytes(size)
            said[int(ours), number] += data
            (opened[number] if ours else pair.accepted[number]).stream.write(data)
            if cut.random() < 0.3:
                await pair.pump(cut)
        await pair.pump(cut)
        for number in range(5):
            assert opened[number].got == said[0, number]
            assert pair.accepted[number].got == said[1, number]
            assert (opened[number].slow, pair.accepted[number].slow) == (0, 0)
            opened[number].stream.close()
            pair.accepted[number].stream.close()
        await pair.pump()
        assert (len(pair.ours), len(pair.theirs), pair.aborted) == (0, 0, [False, False])
        assert all(one.gone for one in (*opened, *pair.accepted))

    asyncio.run(play())


async def test_who_does_not_read_holds_up_nobody_else() -> None:
    pair = Pair()
    slow, quick = pair.open(), pair.open()
    slow.stream.pause_reading()
    for one in (slow, quick):
        one.stream.write(b"?")
    await pair.pump()
    theirs = pair.accepted
    for one in theirs:
        for _ in range(4):
            one.stream.write(b"x" * WINDOW)
    await pair.pump()
    assert (len(slow.got), len(quick.got)) == (WINDOW, 4 * WINDOW)
    assert (theirs[0].slow, theirs[1].slow) == (1, 0)
    slow.stream.resume_reading()
    await pair.pump()
    assert (len(slow.got), theirs[0].slow) == (4 * WINDOW, 0)


async def test_a_connection_that_takes_nothing_more_slows_all_of_its_streams() -> None:
    pair = Pair()
    one, other = pair.open(), pair.open()
    pair.ours.choke()
    assert (one.slow, other.slow) == (1, 1)
    pair.ours.unchoke()
    assert (one.slow, other.slow) == (0, 0)


async def test_what_was_written_before_the_end_comes_before_it() -> None:
    pair = Pair()
    one = pair.open()
    one.stream.write(b"?")
    await pair.pump()
    (served,) = pair.accepted
    one.stream.pause_reading()
    served.stream.write(b"y" * (2 * WINDOW))
    served.stream.close()
    await pair.pump()
    assert (len(one.got), one.over, served.gone) == (WINDOW, False, False)
    one.stream.resume_reading()
    await pair.pump()
    assert (len(one.got), one.over, served.gone) == (2 * WINDOW, True, True)


async def test_a_stream_that_is_reset_is_over_at_both_ends_and_what_still_comes_is_nobodys() -> None:
    pair = Pair()
    one, other = pair.open(), pair.open()
    one.stream.write(b"?")
    other.stream.write(b"?")
    await pair.pump()
    pair.accepted[0].stream.write(b"on its way")
    one.stream.abort()
    await pair.pump()
    assert (one.gone, pair.accepted[0].gone, len(one.got)) == (True, True, 0)
    pair.accepted[1].stream.write(b"still here")
    await pair.pump()
    assert (bytes(other.got), len(pair.ours), pair.aborted) == (b"still here", 1, [False, False])
    one.stream.abort()
    one.stream.write(b"into nothing")
    await pair.pump()
    assert len(pair.accepted) == 2, "its number is not anybody else's"


async def test_with_the_connection_all_streams_are_lost() -> None:
    pair = Pair()
    ends = [pair.open() for _ in range(3)]
    pair.ours.lost()
    assert all(end.gone for end in ends)
    ends[0].stream.write(b"?")
    ends[0].stream.close()
    await pair.pump()
    assert pair.accepted == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HEAD.pack(9, DATA, 1) + b"x", "a stream that nobody opened"),
        (HEAD.pack(9, BEGIN, 0), "only we open streams"),
        (HEAD.pack(1, ROOM, 2) + b"xx", "no number"),
        (HEAD.pack(1, BEGIN, 0), "it has begun"),
        (b"".join(HEAD.pack(1, DATA, LONGEST) + b"x" * LONGEST for _ in range(WINDOW // LONGEST + 1)), "too much"),
    ],
)
async def test_who_does_not_keep_to_the_rules_is_not_heard_any_more(text: bytes, why: str) -> None:
    """An agent is a job's, and a job may be anybody's: what it sends must cost the gateway no more than a window."""
    pair = Pair()
    pair.open().stream.pause_reading()
    pair.ours.received(text)
    assert pair.aborted == [True, False], why


async def test_who_keeps_up_is_given_a_wider_window_and_no_wider_than_that() -> None:
    pair = Pair()
    one = pair.open()
    await pair.pump()
    (served,) = pair.accepted
    served.stream.write(b"x" * (4 * WIDEST))
    await pair.pump()
    one.stream.pause_reading()
    before = len(one.got)
    served.stream.write(b"x" * (4 * WIDEST))
    await pair.pump()
    assert WINDOW < len(one.got) - before <= WIDEST
