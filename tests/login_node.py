"""A login node of a test's own: an sshd that lets TCP through, as a cluster's does."""

import asyncio
import os
import pwd
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from gateway.slurm.ssh_login import SshTarget
from gateway.slurm.tunnel import SshTunnel

ME = pwd.getpwuid(os.getuid()).pw_name


@dataclass
class LoginNode:
    """`asked`: where it was asked to connect to. Whatever host is named, it is this machine."""

    target: SshTarget
    server: asyncssh.SSHAcceptor
    asked: list[tuple[str, int]] = field(default_factory=list)
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)

    def tunnel(self) -> SshTunnel:
        return SshTunnel(self.target, ME, lambda: 0.0)

    async def cut(self) -> None:
        """Every connection to it breaks; it goes on."""
        for connection in self.connections:
            connection.abort()
        self.connections.clear()


@asynccontextmanager
async def a_login_node(folder: Path) -> AsyncIterator[LoginNode]:
    folder.mkdir(exist_ok=True)
    host_key, user_key = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    (folder / "authorized_keys").write_bytes(user_key.export_public_key())
    user_key.write_private_key(str(folder / "key"))
    node: LoginNode

    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            node.connections.append(conn)
            self._connection = conn

        def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
            del orig_host, orig_port
            node.asked.append((dest_host, dest_port))
            return self._forward(dest_port)

        async def _forward(self, port: int) -> asyncssh.SSHForwarder:
            made = await self._connection.forward_connection("127.0.0.1", port)
            if self._connection.is_closed():  # asyncssh would forget it, and leave it open
                made.close()
            return made

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Server,
        server_host_keys=[host_key],
        authorized_client_keys=str(folder / "authorized_keys"),
    )
    port = server.get_port()
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {host_key.export_public_key().decode()}")
    node = LoginNode(SshTarget("127.0.0.1", port, known, key_file=folder / "key"), server)
    try:
        yield node
    finally:
        server.close()
        await node.cut()
        await asyncio.wait_for(server.wait_closed(), 60)
