"""One ssh connection for each user to one host, as whoever `ssh_login` can prove to be.

A connection is opened on first use, shared by everything that runs as that user, kept alive, closed when idle
and opened again when it broke; a host that does not let us in is asked again ever more seldom. Host keys are
always checked.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncssh

from gateway.errors import Forbidden
from gateway.slurm.ssh_login import LIFE, SshTarget, Unreachable, login

# OpenSSH's MaxSessions is 10 unless a site says otherwise; one is left for the SFTP session.
SESSIONS: Final = 8
#: A host counts a session until it has cleared it away, a little after its command ended. In seconds.
CLEARED_WITHIN: Final = 5.0
LOOK_AGAIN: Final = 0.05
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
#: Of a host that cannot be reached: requests may wait for it, and it counts no failed log-ins.
LONGEST_AWAY: Final = 4.0


@dataclass
class _Link:
    connection: asyncssh.SSHClientConnection
    running: int = 0  # commands
    limit: int = SESSIONS
    freed_at: float = float("-inf")  # when a command last ended
    ended: asyncio.Condition = field(default_factory=asyncio.Condition)
    users: int = 0
    sftp: asyncssh.SFTPClient | None = None
    opening_sftp: asyncio.Lock = field(default_factory=asyncio.Lock)
    closer: asyncio.TimerHandle | None = None


@dataclass
class _Silence:
    """A host that does not let the user in: when it is asked again (loop time), and what it said."""

    until: float
    pause: float
    words: Unreachable | Forbidden


class Session:
    """Room for one command on the user's connection. `started`: it may be running there."""

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._inside = False
        self.started = False

    async def open(self, command: str) -> "asyncssh.SSHClientProcess[bytes]":
        """Start it, as soon as sshd opens a session; asyncssh's ChannelOpenError if it opens none at all."""
        link = self._link
        while True:
            await self._enter()
            self.started = True  # from here on it may be: the request to run it may arrive, and its answer not
            try:
                return await link.connection.create_process(command, encoding=None)
            except asyncssh.ChannelOpenError:
                self.started = link.connection.is_closed()  # else the host itself refused
                others = link.running - 1
                clears = asyncio.get_running_loop().time() < link.freed_at + CLEARED_WITHIN
                if self.started or not (others or clears):
                    raise
                if others:
                    link.limit = min(link.limit, others)  # its MaxSessions is lower than we thought: wait in line
                await self.leave()
                if not others:
                    await asyncio.sleep(LOOK_AGAIN)

    async def _enter(self) -> None:
        async with self._link.ended:
            await self._link.ended.wait_for(lambda: self._link.running < self._link.limit)
            self._link.running += 1
            self._inside = True

    async def leave(self) -> None:
        if self._inside:
            self._inside = False
            self._link.running -= 1
            async with self._link.ended:
                self._link.ended.notify_all()  # whoever is told alone may be giving up, and tells nobody


class SshConnections:
    """The connections to one host. `now` is epoch seconds, for the certificates."""

    def __init__(
        self,
        target: SshTarget,
        now: Callable[[], float],
        *,
        idle: float = 120.0,
        keepalive: float = 15.0,
        connect_timeout: float = 10.0,
        life: float = LIFE,
    ) -> None:
        self._target = target
        self._now = now
        self._idle = idle
        self._keepalive = keepalive
        self._connect_timeout = connect_timeout
        self._life = life
        self._links: dict[str, _Link] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._silent: dict[str, _Silence] = {}

    def __str__(self) -> str:
        return str(self._target)

    @asynccontextmanager
    async def session(self, user: str) -> AsyncIterator[Session]:
        """Room for one command as the user. Unreachable; Forbidden if the host refuses the user."""
        link = await self._link(user)
        async with self._used(user, link):
            session = Session(link)
            try:
                yield session
            finally:
                if session.started:
                    link.freed_at = asyncio.get_running_loop().time()
                await session.leave()

    @asynccontextmanager
    async def sftp(self, user: str) -> AsyncIterator[asyncssh.SFTPClient]:
        """The user's SFTP client, shared. Unreachable; Forbidden if the host refuses the user."""
        link = await self._link(user)
        async with self._used(user, link):
            async with link.opening_sftp:
                if link.sftp is None:
                    try:
                        async with asyncio.timeout(self._connect_timeout):
                            link.sftp = await link.connection.start_sftp_client()
                    except (asyncssh.Error, OSError, TimeoutError) as error:
                        self._drop(user, link)
                        raise Unreachable(f"{self._target} opens no SFTP session: {_words(error)}") from error
            yield link.sftp

    @asynccontextmanager
    async def connection(self, user: str) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """The user's connection itself, kept while it is used. Unreachable; Forbidden if the host refuses the user."""
        link = await self._link(user)
        async with self._used(user, link):
            yield link.connection

    async def close(self) -> None:
        links, self._links = list(self._links.values()), {}
        for link in links:
            if link.closer is not None:
                link.closer.cancel()
            link.connection.close()
        for link in links:
            await link.connection.wait_closed()

    @asynccontextmanager
    async def _used(self, user: str, link: _Link) -> AsyncIterator[None]:
        link.users += 1
        if link.closer is not None:
            link.closer.cancel()
            link.closer = None
        try:
            yield
        except (asyncssh.ConnectionLost, asyncssh.DisconnectError, asyncssh.SFTPConnectionLost) as error:
            self._drop(user, link)
            raise Unreachable(f"the connection to {self._target} broke: {_words(error)}") from error
        except asyncssh.ChannelOpenError as error:
            self._drop(user, link)
            raise Unreachable(f"{self._target} opens no session: {_words(error)}") from error
        finally:
            link.users -= 1
            if link.users == 0 and self._links.get(user) is link:
                loop = asyncio.get_running_loop()
                link.closer = loop.call_later(self._idle, self._drop, user, link)

    def _drop(self, user: str, link: _Link) -> None:
        """Take no new work on this connection; what is under way on it ends first."""
        if self._links.get(user) is link:
            del self._links[user]
        link.connection.close()

    async def _link(self, user: str) -> _Link:
        async with self._locks.setdefault(user, asyncio.Lock()):
            link = self._links.get(user)
            if link is not None and not link.connection.is_closed():
                return link
            link = _Link(await self._connect(user))
            self._links[user] = link
            return link

    async def _connect(self, user: str) -> asyncssh.SSHClientConnection:
        """A new connection; not tried again at once where the last try failed."""
        loop = asyncio.get_running_loop()
        silence = self._silent.get(user)
        if silence is not None and loop.time() < silence.until:
            raise silence.words
        try:
            connection = await self._try(user)
        except (Unreachable, Forbidden) as error:
            longest = LONGEST_PAUSE if isinstance(error, Forbidden) else LONGEST_AWAY
            pause = min(longest, 2 * silence.pause) if silence is not None else FIRST_PAUSE
            self._silent[user] = _Silence(loop.time() + pause, pause, error)
            raise
        self._silent.pop(user, None)
        return connection

    async def _try(self, user: str) -> asyncssh.SSHClientConnection:
        target = self._target
        proof = await asyncio.to_thread(login, target, user, self._now(), self._life)
        try:
            return await asyncssh.connect(
                target.host,
                target.port,
                username=user,
                client_keys=proof.keys,
                agent_path=proof.agent,
                known_hosts=str(target.known_hosts_file),
                config=None,
                preferred_auth="publickey",
                keepalive_interval=self._keepalive,
                keepalive_count_max=3,
                connect_timeout=self._connect_timeout,
                login_timeout=self._connect_timeout,
            )
        except asyncssh.PermissionDenied as error:
            raise Forbidden(f"{target} does not let {user} in: {_words(error)}", hint=proof.hint) from error
        except asyncssh.HostKeyNotVerifiable as error:
            raise Unreachable(f"{target} shows a host key that {target.known_hosts_file} does not hold") from error
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise Unreachable(f"{target} cannot be reached: {_words(error)}") from error


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
