"""Connects to the service: on its Unix socket, or on its loopback port if it is ours."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import Dict, Union

Target = Union[str, int]  # the path of a Unix socket, or a port on 127.0.0.1


async def connect(target: Target, within: float) -> socket.socket:
    """A non-blocking connection to the service. OSError if there is none within so many seconds."""
    return await (_to_port(target, within) if isinstance(target, int) else _to_socket(target, within))


_looked: Dict[int, float] = {}  # when it was last seen whose a port is
_LOOK_AGAIN = 1.0


async def _to_port(port: int, within: float) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(0)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port)), within)
        now = time.monotonic()
        if now - _looked.get(port, -_LOOK_AGAIN) >= _LOOK_AGAIN:  # a look costs more than a connection
            refuse_foreign(port)
            _looked[port] = now
    except asyncio.TimeoutError:
        sock.close()
        raise OSError(f"no connection within {within:.0f} s") from None
    except BaseException:
        sock.close()
        raise
    return sock


async def _to_socket(path: str, within: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + within, 0.001
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(0)
        try:
            sock.connect(path)
        except BlockingIOError:
            # The service's queue is full. A Unix socket does not wait for its turn as TCP does, so we do.
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
        if loop.time() > until:
            raise OSError("its queue of new connections stays full")
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.05)


def refuse_foreign(port: int) -> None:
    """PermissionError if another user's program listens on this loopback port: it could pose as our service."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                lines = file.readlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            listens = fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port
            if listens and int(fields[7]) != os.getuid():
                raise PermissionError(f"port {port} of the node is taken by another user's program")
