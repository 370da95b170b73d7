"""Who the gateway can prove to be at an sshd: certificates of minutes from a user CA, a key, or an agent's keys."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncssh

LIFE: Final = 300.0
SKEW: Final = 60.0


class Unreachable(Exception):
    """No connection, or it broke; the words say where and why."""


@dataclass(frozen=True)
class SshTarget:
    """A host, its known key (or its CA's), and what lets us in: one of a user CA's private key, a key, an agent.

    `forwards`: whether certificates are good for connections to other hosts through it.
    """

    host: str
    port: int
    known_hosts_file: Path
    user_ca_key_file: Path | None = None
    key_file: Path | None = None
    forwards: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Login:
    """What is shown to sshd; `hint` says what to look at where it is refused. An `agent` is a socket's path."""

    keys: Sequence[asyncssh.SSHKey | tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]]
    agent: str | None
    hint: str


def login(target: SshTarget, user: str, now: float, life: float) -> Login:
    """For one connection as the user; `now` in epoch seconds, `life` of a certificate in seconds. Unreachable."""
    if not target.known_hosts_file.is_file():
        raise Unreachable(
            f"known_hosts_file {target.known_hosts_file} does not exist, and host keys are always checked"
        )
    if target.user_ca_key_file is not None:
        hint = "Does its sshd trust the user CA (TrustedUserCAKeys), and is there such an account?"
        return Login([_certified(target.user_ca_key_file, user, now, life, forwards=target.forwards)], None, hint)
    if target.key_file is not None:
        hint = f"Is the public half of {target.key_file} in that user's authorized_keys there?"
        return Login([_read(target.key_file, "ssh_key_file")], None, hint)
    agent = os.environ.get("SSH_AUTH_SOCK")
    if not agent:
        raise Unreachable("there is no ssh agent (SSH_AUTH_SOCK is not set)")
    return Login((), agent, "Has the agent a key that the user's authorized_keys there holds (ssh-add -l)?")


def _certified(
    ca: Path, user: str, now: float, life: float, *, forwards: bool
) -> tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]:
    """A key made for this connection only, and the CA's word that it is the user's, for a few minutes."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    certificate = _read(ca, "user_ca_key_file").generate_user_certificate(
        key,
        f"sluice:{user}",
        principals=[user],
        valid_after=int(now - SKEW),
        valid_before=int(now + life),
        permit_x11_forwarding=False,
        permit_agent_forwarding=False,
        permit_port_forwarding=forwards,
        permit_pty=False,
        permit_user_rc=False,
    )
    return key, certificate


def _read(path: Path, setting: str) -> asyncssh.SSHKey:
    try:
        return asyncssh.read_private_key(path)
    except (OSError, asyncssh.KeyImportError) as error:
        raise Unreachable(f"{setting} {path} cannot be read: {str(error) or type(error).__name__}") from error
