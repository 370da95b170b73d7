"""Running a frame on a port, and ending it well: no new requests, streams told, the rest given a bounded time."""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from math import ceil

import structlog
import uvicorn

from gateway.errors import SettingsInvalid
from gateway.web.app import Server, Web, background
from gateway.web.guard import GuardedProtocol
from gateway.web.tls import Certificate

log = structlog.get_logger(__name__)

GRACE = 20
_BACKLOG = 4096
#: The loop takes one connection of each of its listeners a turn, and a turn is long while many ask.
_TURN = 32
_GARBAGE = 50_000
_TICKS_A_LOOK = 10


class Serving(uvicorn.Server):
    """One frame on listening sockets. `stop()` ends it; a second call does not wait for anybody."""

    def __init__(self, web: Web, *listeners: socket.socket, grace: int = GRACE, tls: Certificate | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                web,
                http=GuardedProtocol,
                loop="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=ceil(web.door.limits.idle_seconds),
                timeout_graceful_shutdown=grace,
                backlog=_BACKLOG,
                ws_max_size=1 << 40,
                ws_per_message_deflate=False,
            )
        )
        self._web, self._listeners, self._tls = web, listeners, tls
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are the caller's: several of these may run in one process, and the exit code is 0 after SIGTERM."""
        yield

    def stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._web.closing.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        del sockets
        await super().startup([])
        server = Server(self.config, self.server_state, self.lifespan.state)
        entrance = next((part.entrance for part in self._web.parts if part.entrance is not None), _plain)
        accept = partial(entrance(self._web), server)
        patience = self._web.door.limits.handshake_seconds
        for listener in self._listeners:
            self.servers += [await _listening(accept, listener, self._tls, patience) for _ in range(_TURN)]
        self.ready.set()

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_A_LOOK == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, GuardedProtocol):
                    connection.look(now)
        return await super().on_tick(counter)

    async def run_until_stopped(self) -> None:
        """SettingsInvalid if the frame did not start; the log says why."""
        try:
            async with (
                background("certificate", self._tls.watch) if self._tls is not None else contextlib.nullcontext()
            ):
                await self.serve(sockets=list(self._listeners))
        except SystemExit as error:  # the web server's way to say that the lifespan failed
            raise SettingsInvalid("the service did not start", hint="The log above says why.") from error
        finally:
            for listener in self._listeners:
                listener.close()


def _plain(web: Web) -> Callable[[Server], asyncio.Protocol]:
    return lambda server: GuardedProtocol(server.config, server.state, server.app_state, limits=web.door.limits)


async def _listening(
    accept: Callable[[], asyncio.Protocol], listener: socket.socket, tls: Certificate | None, patience: float
) -> asyncio.Server:
    """Who comes by a Unix socket is on this machine: nobody is on the way who could listen."""
    loop, own = asyncio.get_running_loop(), listener.dup()
    if listener.family == socket.AF_UNIX:
        return await loop.create_unix_server(accept, sock=own, backlog=_BACKLOG)
    if tls is None:
        return await loop.create_server(accept, sock=own, backlog=_BACKLOG)
    return await loop.create_server(accept, sock=own, backlog=_BACKLOG, ssl=tls.context, ssl_handshake_timeout=patience)


def _settle() -> None:
    """What start-up made is there to stay: the collector of garbage need not go through it again and again.

    It begins after so many new objects; those of a few hundred requests under way are no garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, bound before anything is started: a port that is taken is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsInvalid(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="Is a gateway running already? Choose another port with --port.",
        ) from error
    listener.setblocking(False)  # noqa: FBT003 - the socket's own word
    return listener


@contextlib.asynccontextmanager
async def running(
    web: Web,
    *more: socket.socket,
    host: str = "127.0.0.1",
    port: int = 0,
    grace: int = GRACE,
    tls: Certificate | None = None,
) -> AsyncIterator[str]:
    """Serve while the block runs; gives the address. Port 0 is any free one."""
    listener = listen(host, port)
    serving = Serving(web, listener, *more, grace=grace, tls=tls)
    task = asyncio.create_task(serving.run_until_stopped())
    ready = asyncio.create_task(serving.ready.wait())
    try:
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield f"{'https' if tls is not None else 'http'}://{host}:{listener.getsockname()[1]}"
    finally:
        ready.cancel()
        serving.stop()
        await task


async def serve(web: Web, *listeners: socket.socket, grace: int = GRACE, tls: Certificate | None = None) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends it at once."""
    serving = Serving(web, *listeners, grace=grace, tls=tls)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.stop)
    _settle()
    try:
        await serving.run_until_stopped()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
