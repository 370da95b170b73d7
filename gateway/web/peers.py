"""A Unix socket on which the kernel says who calls: no password, no token."""

import os
import socket
import struct
from asyncio import BaseTransport, Transport, get_running_loop
from pathlib import Path
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import SettingsInvalid

PEER = "unix"
"""The host of a client whose `port` is a uid. No client of a network has it: theirs are addresses."""

_UCRED = struct.Struct("3i")
_BACKLOG = 1024
_MOST_HELD = 1 << 16


class _Gathering:
    """A transport that sends once what is written in one turn of the loop: head and body of an answer go together."""

    def __init__(self, transport: Transport) -> None:
        self._transport, self._loop = transport, get_running_loop()
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)
        self._size += len(data)
        if self._size > _MOST_HELD:  # who writes much must hear when it is too much
            self._send()

    def close(self) -> None:
        self._send()
        self._transport.close()

    def write_eof(self) -> None:
        self._send()
        self._transport.write_eof()

    def _send(self) -> None:
        parts, self._parts, self._size = self._parts, [], 0
        if parts:
            self._transport.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class PeerProtocol(HttpToolsProtocol):
    """HTTP as elsewhere; of who comes by a Unix socket the client is `(PEER, uid)`."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast("Transport", _Gathering(cast("Transport", transport))))
        uid = uid_of(transport)
        if uid is not None:
            self.client = (PEER, uid)


def uid_of(transport: BaseTransport) -> int | None:
    """Whose process is at the other end, as the kernel noted when it connected; None for a network's."""
    given = transport.get_extra_info("socket")
    if given is None or given.family != socket.AF_UNIX:
        return None
    with socket.socket(fileno=os.dup(given.fileno())) as ours:
        _, uid, _ = _UCRED.unpack(ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def peer_of(client: tuple[str, int] | None) -> int | None:
    """The uid of a request's client, if the kernel said it."""
    return client[1] if client is not None and client[0] == PEER else None


def listen_unix(path: Path) -> socket.socket:
    """A listening socket that everybody on this machine may connect to. SettingsInvalid if it cannot be there."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            _remove_if_dead(path)
        listener.bind(str(path))
        path.chmod(0o666)  # who may do what is said by who they are
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsInvalid(
            f"identity.socket: cannot listen on {path}: {error.strerror}", hint="Is a gateway running already?"
        ) from error
    listener.setblocking(False)  # noqa: FBT003 - the socket's own word
    return listener


def _remove_if_dead(path: Path) -> None:
    """What a killed gateway left. One that somebody listens on stays, and binding fails."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
