"""One ssh connection for each user to one host, by certificates of a few minutes that the gateway signs.

A connection is opened on first use, shared by everything that runs as that user, kept alive, closed when idle
and opened again when it broke. Host keys are always checked.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncssh

from gateway.errors import Forbidden

LIFE: Final = 300.0
SKEW: Final = 60.0
# OpenSSH's MaxSessions is 10 unless a site says otherwise; one is left for the SFTP session.
SESSIONS: Final = 8


class Unreachable(Exception):
    """No connection, or it broke; the words say where and why."""


@dataclass(frozen=True)
class SshTarget:
    """A host and what is needed to enter it as anyone: the user CA's private key, and the host's known key."""

    host: str
    port: int
    known_hosts_file: Path
    user_ca_key_file: Path

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass
class _Link:
    connection: asyncssh.SSHClientConnection
    sessions: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SESSIONS))
    users: int = 0
    sftp: asyncssh.SFTPClient | None = None
    opening_sftp: asyncio.Lock = field(default_factory=asyncio.Lock)
    closer: asyncio.TimerHandle | None = None


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

    def __str__(self) -> str:
        return str(self._target)

    @asynccontextmanager
    async def session(self, user: str) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """The user's connection, for one session on it. Unreachable; Forbidden if the host refuses the user."""
        link = await self._link(user)
        async with link.sessions, self._used(user, link):
            yield link.connection

    @asynccontextmanager
    async def sftp(self, user: str) -> AsyncIterator[asyncssh.SFTPClient]:
        """The user's SFTP client, shared. Unreachable; Forbidden if the host refuses the user."""
        link = await self._link(user)
        async with self._used(user, link):
            async with link.opening_sftp:
                if link.sftp is None:
                    try:
                        link.sftp = await asyncio.wait_for(link.connection.start_sftp_client(), self._connect_timeout)
                    except (asyncssh.Error, OSError, TimeoutError) as error:
                        self._drop(user, link)
                        raise Unreachable(f"{self._target} opens no SFTP session: {_words(error)}") from error
            yield link.sftp

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
        key, certificate = await asyncio.to_thread(self._certificate, user)
        try:
            return await asyncssh.connect(
                self._target.host,
                self._target.port,
                username=user,
                client_keys=[(key, certificate)],
                known_hosts=str(self._target.known_hosts_file),
                config=None,
                agent_path=None,
                preferred_auth="publickey",
                keepalive_interval=self._keepalive,
                keepalive_count_max=3,
                connect_timeout=self._connect_timeout,
                login_timeout=self._connect_timeout,
            )
        except asyncssh.PermissionDenied as error:
            raise Forbidden(
                f"{self._target} does not let {user} in: {_words(error)}",
                hint="Does its sshd trust the user CA (TrustedUserCAKeys), and is there such an account?",
            ) from error
        except asyncssh.HostKeyNotVerifiable as error:
            raise Unreachable(
                f"{self._target} shows a host key that {self._target.known_hosts_file} does not hold"
            ) from error
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise Unreachable(f"{self._target} cannot be reached: {_words(error)}") from error

    def _certificate(self, user: str) -> tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]:
        """A key made for this connection only, and the CA's word that it is the user's, for a few minutes."""
        try:
            authority = asyncssh.read_private_key(self._target.user_ca_key_file)
        except (OSError, asyncssh.KeyImportError) as error:
            raise Unreachable(
                f"user_ca_key_file {self._target.user_ca_key_file} cannot be read: {_words(error)}"
            ) from error
        if not self._target.known_hosts_file.is_file():
            raise Unreachable(
                f"known_hosts_file {self._target.known_hosts_file} does not exist, and host keys are always checked"
            )
        key = asyncssh.generate_private_key("ssh-ed25519")
        now = self._now()
        certificate = authority.generate_user_certificate(
            key,
            f"sluice:{user}",
            principals=[user],
            valid_after=int(now - SKEW),
            valid_before=int(now + self._life),
            permit_x11_forwarding=False,
            permit_agent_forwarding=False,
            permit_port_forwarding=False,
            permit_pty=False,
            permit_user_rc=False,
        )
        return key, certificate


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
