"""TCP to a cluster's nodes through its login node: channels (direct-tcpip) of a few ssh connections.

Each connection appears here as one end of a private pair of sockets, so that TLS and every protocol run over it as over
any other. Several ssh connections, because one of them is one TCP stream and one cipher, in which everything waits for
everything else.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Final, cast

import asyncssh

from gateway.errors import Forbidden
from gateway.slurm.ssh import SshConnections
from gateway.slurm.ssh_login import SshTarget, Unreachable

CONNECTIONS: Final = 4
_WINDOW: Final = 1 << 20
#: asyncssh opens a channel's window again whenever it delivers anything, also while more waits in its own buffer, which
#: then grows with every pause. So a pause must come only where all that may wait there finds room at once.
_HIGH: Final = 4 * _WINDOW
_SENT: Final = 1 << 18
#: Four of them without an answer end a connection: about as soon as the system ends a straight one to a dead node.
_KEEPALIVE: Final = 6.0
#: What sshd says, by the system's own words.
_ERRNOS = {
    os.strerror(number): number
    for number in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT)
}


class SshTunnel:
    """Implements `core.ports.Tunnel`. `now` is epoch seconds, for the certificates."""

    def __init__(
        self, target: SshTarget, user: str, now: Callable[[], float], *, connections: int = CONNECTIONS
    ) -> None:
        self._target, self._user = target, user
        self._pool = [SshConnections(target, now, keepalive=_KEEPALIVE) for _ in range(connections)]
        self._carried = dict.fromkeys(range(connections), 0)
        self._tasks: set[asyncio.Task[None]] = set()

    def __str__(self) -> str:
        return str(self._target)

    async def open(self, host: str, port: int) -> socket.socket:
        """A connected socket. OSError as the login node says it, or because it cannot be reached itself."""
        ours: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._carry(host, port, ours), name="tunnel")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await ours
        except asyncio.CancelledError:
            task.cancel()
            if ours.done() and not ours.cancelled() and ours.exception() is None:
                ours.result().close()  # it came in the moment in which nobody waited for it any more
            raise

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connections in self._pool:
            await connections.close()

    async def _carry(self, host: str, port: int, ours: "asyncio.Future[socket.socket]") -> None:
        """One channel, from its opening to its end."""
        number = min(self._carried, key=lambda one: self._carried[one])
        self._carried[number] += 1
        try:
            async with self._pool[number].connection(self._user) as connection:
                far = await _open(connection, host, port)
                here, there = socket.socketpair()
                given = False
                here.setblocking(False)  # noqa: FBT003 - the socket's own word
                loop = asyncio.get_running_loop()
                try:
                    await loop.create_unix_connection(lambda: _Near(far), sock=there)
                    if not ours.done():
                        ours.set_result(here)
                        given = True
                    await far.over.wait()
                finally:
                    far.abort()
                    if not given:  # nobody waited for it any more
                        here.close()
        except (Unreachable, Forbidden, OSError) as error:
            if not ours.done():
                ours.set_exception(error if isinstance(error, OSError) else ConnectionError(str(error)))
        finally:
            self._carried[number] -= 1


async def _open(connection: asyncssh.SSHClientConnection, host: str, port: int) -> "_Far":
    try:
        _, far = await connection.create_connection(_Far, host, port, window=_WINDOW)
    except asyncssh.ChannelOpenError as error:
        number = _ERRNOS.get(error.reason)
        if number is None:
            raise ConnectionError(f"the login node opens no way there: {error.reason}") from error
        raise OSError(number, error.reason) from error
    return cast("_Far", far)


class _Far(asyncssh.SSHTCPSession[bytes]):
    """The channel's side. What comes before the near side is there waits in the channel."""

    def __init__(self) -> None:
        self._channel: asyncssh.SSHTCPChannel[bytes]
        self._near: asyncio.Transport | None = None
        self.over = asyncio.Event()

    def connection_made(self, chan: "asyncssh.SSHTCPChannel[bytes]") -> None:
        self._channel = chan
        chan.set_write_buffer_limits(_SENT)

    def session_started(self) -> None:
        self._channel.pause_reading()

    def joined(self, near: asyncio.Transport) -> None:
        self._near = near
        near.set_write_buffer_limits(_HIGH, _WINDOW)
        self._channel.resume_reading()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        del datatype
        if self._near is not None:
            self._near.write(data)

    def eof_received(self) -> bool:
        if self._near is not None and not self._near.is_closing():
            self._near.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._near is not None:
            self._near.close()
        self.over.set()

    def pause_writing(self) -> None:
        if self._near is not None and not self._near.is_closing():
            self._near.pause_reading()

    def resume_writing(self) -> None:
        if self._near is not None and not self._near.is_closing():
            self._near.resume_reading()

    # From the near side.

    def send(self, data: bytes) -> None:
        if not self._channel.is_closing():
            self._channel.write(data)

    def send_eof(self) -> None:
        if not self._channel.is_closing():
            self._channel.write_eof()

    def slow(self) -> None:
        self._channel.pause_reading()

    def fast(self) -> None:
        self._channel.resume_reading()

    def abort(self) -> None:
        if not self.over.is_set():
            self._channel.abort()
            if self._near is not None:
                self._near.abort()


class _Near(asyncio.Protocol):
    """The side of the pair of sockets that is not given away."""

    def __init__(self, far: _Far) -> None:
        self._far = far

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._far.joined(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        self._far.send(data)

    def eof_received(self) -> bool:
        self._far.send_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._far.abort()

    def pause_writing(self) -> None:
        self._far.slow()

    def resume_writing(self) -> None:
        self._far.fast()
