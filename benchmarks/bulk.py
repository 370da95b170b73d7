"""Many bytes: a download and an upload through `/s`, beside a direct connection."""

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from benchmarks.processes import cost
from benchmarks.report import Row

SIZE = 1 << 29
TIMES = 2
_PIECE = 1 << 20
_WITHIN = 60.0


def rows(direct: str, ours: str, headers: dict[str, str], pid: int) -> Iterator[Row]:
    """The faster of two each way, in turn."""
    with cost([pid]) as spent:
        for name, move in (("download", _download), ("upload", _upload)):
            rates: dict[str, list[float]] = {direct: [], ours: []}
            for _ in range(TIMES):
                for url, found in rates.items():
                    found.append(SIZE / move(url, headers) / 1e6)
            yield Row(f"/s {name} of 512 MiB", "MB/s", max(rates[ours]), max(rates[direct]))
    note = f"{spent.before:.0f} MB before; CPU {spent.cpu / (2 * TIMES * SIZE / 1e9):.2f} s/GB"
    yield Row("/s bulk: memory of the client service", "MB", spent.peak, note=note)


def _download(url: str, headers: dict[str, str]) -> float:
    """Seconds."""
    with _asked("GET", url, f"/download/{SIZE}", headers, 0) as connection:
        began = time.perf_counter()
        _receive(connection, SIZE)
        return time.perf_counter() - began


def _upload(url: str, headers: dict[str, str]) -> float:
    with _asked("PUT", url, "/upload", headers, SIZE) as connection:
        began, piece = time.perf_counter(), bytes(_PIECE)
        for _ in range(SIZE // _PIECE):
            connection.sendall(piece)
        _receive(connection, 0)
        return time.perf_counter() - began


def _asked(method: str, url: str, path: str, headers: dict[str, str], length: int) -> socket.socket:
    place = urlsplit(url)
    lines = [f"{method} {place.path}{path} HTTP/1.1", f"Host: {place.netloc}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    connection = socket.create_connection((place.hostname or "", place.port or 80), timeout=_WITHIN)
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def _receive(connection: socket.socket, size: int) -> None:
    """The head of a good answer, and so many bytes of it at least."""
    buffer, head = bytearray(_PIECE), b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(_PIECE)
        assert piece, "the answer ended"
        head += piece
    assert head.startswith(b"HTTP/1.1 200 "), head[:200]
    left = size - (len(head) - head.find(b"\r\n\r\n") - 4)
    while left > 0:
        got = connection.recv_into(buffer)
        assert got, "the answer ended"
        left -= got
