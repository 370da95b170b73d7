"""The one buffer that connections are read into: what is lent from it arrives as it was, whatever comes behind it."""

import asyncio
import socket

import pytest

from gateway.agent.landing import SIZE, SMALL, Landing


def fill(landing: Landing, value: int, size: int = SIZE) -> None:
    landing.view[:size] = bytes([value]) * size


def test_small_pieces_are_copies_and_long_ones_the_buffer_itself() -> None:
    landing = Landing()
    fill(landing, 1)
    small, long = landing.taken(SMALL - 1), landing.taken(SMALL)
    fill(landing, 2)
    assert isinstance(small, bytes)
    assert small == b"\1" * (SMALL - 1)
    assert bytes(long) == b"\2" * SMALL


def test_what_is_somebody_elses_stays_as_it_was() -> None:
    landing = Landing()
    fill(landing, 1)
    kept = landing.taken(SIZE)
    landing.renew()
    fill(landing, 2)
    assert bytes(kept) == b"\1" * SIZE


@pytest.mark.parametrize("size", [SMALL - 1, SMALL, SIZE], ids=["copied", "least", "whole"])
async def test_a_reader_that_is_slow_gets_what_was_lent_though_the_buffer_is_used_again(size: int) -> None:
    rounds = 2 * max(8, SIZE // size)  # more than a socket's buffers take at once
    here, there = socket.socketpair()
    for one in (here, there):
        one.settimeout(0)
    reader, slow = await asyncio.open_connection(sock=there, limit=1024)
    _, writer = await asyncio.open_connection(sock=here)
    landing = Landing()
    try:
        for number in range(rounds):
            fill(landing, number % 251, size)
            landing.lend(writer.transport, landing.taken(size))
            fill(landing, 255, size)
        assert writer.transport.get_write_buffer_size() > 0, "the reader was slow enough"
        writer.write_eof()
        async with asyncio.timeout(60):
            found = [await reader.readexactly(size) for _ in range(rounds)]
            assert await reader.read() == b""
    finally:
        for stream in (writer, slow):
            stream.close()
            await stream.wait_closed()
    assert [set(piece) for piece in found] == [{number % 251} for number in range(rounds)]
