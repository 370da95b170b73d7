"""Who is let in and who is believed: host keys, a host CA, keys and agents, and how often a closed door is tried."""

import asyncio
import os
import pwd
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest

from gateway.errors import SettingsInvalid, Unavailable
from gateway.settings import ClusterSettings
from gateway.slurm.connect import connect
from gateway.slurm.ssh import Session, SshConnections, _Link
from gateway.slurm.ssh_login import SshTarget
from gateway.slurm.transport import SshShell
from tests.waiting import until_so

ME = pwd.getpwuid(os.getuid()).pw_name


@dataclass
class Host:
    """An sshd of asyncssh's that answers every command with its words; `authorized` keys enter."""

    port: int
    folder: Path
    host_ca: asyncssh.SSHKey
    key: asyncssh.SSHKey
    knocks: list[str] = field(default_factory=list)
    full: int = 0  # so many sessions more are not opened

    def known(self, line: str) -> Path:
        path = self.folder / "known_hosts"
        path.write_text(line + "\n")
        return path

    @property
    def by_key(self) -> Path:
        return self.known(f"[127.0.0.1]:{self.port} {_public(self.key)}")

    @property
    def by_ca(self) -> Path:
        return self.known(f"@cert-authority [127.0.0.1]:{self.port} {_public(self.host_ca)}")


def _public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


@asynccontextmanager
async def a_host(folder: Path, authorized: asyncssh.SSHKey) -> AsyncIterator[Host]:
    key, ca = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    certificate = ca.generate_host_certificate(key, "host", principals=["127.0.0.1"])
    keys = folder / "authorized_keys"
    keys.write_text(_public(authorized) + "\n")
    host = Host(0, folder, ca, key)

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            host.knocks.append(username)
            return True

        def session_requested(self) -> bool | Callable[..., None]:
            host.full -= 1
            return answer if host.full < 0 else False

    def answer(_stdin: Any, stdout: "asyncssh.SSHWriter[str]", _stderr: Any) -> None:
        channel = cast("asyncssh.SSHServerChannel[str]", stdout.channel)
        stdout.write(f"{channel.get_command()}\n")
        channel.exit(0)

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Server,
        server_host_keys=[(key, certificate)],
        authorized_client_keys=str(keys),
    )
    host.port = server.get_port()
    try:
        yield host
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "id_ed25519"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(path)
    path.chmod(0o600)
    return path


@pytest.fixture
async def host(tmp_path: Path, mine: Path) -> AsyncIterator[Host]:
    async with a_host(tmp_path, asyncssh.read_private_key(mine)) as host:
        yield host


def shell(host: Host, known: Path, key: Path | None) -> SshShell:
    return SshShell(SshConnections(SshTarget("127.0.0.1", host.port, known, None, key), time.time))


async def test_a_key_lets_in_where_the_host_is_known_by_its_key_or_by_its_ca(host: Host, mine: Path) -> None:
    for known in (host.by_key, host.by_ca):
        there = shell(host, known, mine)
        assert (await there.run(["echo", "a b"], user=ME)).stdout == "echo 'a b'\n"
        await there.close()


async def test_a_host_with_another_key_or_another_ca_is_not_entered(host: Host, mine: Path) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519")
    lines = (
        f"[127.0.0.1]:{host.port} {_public(other)}",
        f"@cert-authority [127.0.0.1]:{host.port} {_public(other)}",
        f"@cert-authority [192.0.2.1]:{host.port} {_public(host.host_ca)}",
        "",
    )
    for line in lines:
        with pytest.raises(Unavailable, match="shows a host key that") as caught:
            await shell(host, host.known(line), mine).run(["true"], user=ME)
        assert caught.value.details["started"] is False
    assert host.knocks == []  # nothing of ours was shown to it
    with pytest.raises(Unavailable, match="does not exist, and host keys are always checked"):
        await shell(host, host.folder / "none", mine).run(["true"], user=ME)


@pytest.fixture
def agent(mine: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    said = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(SSH_AUTH_SOCK|SSH_AGENT_PID)=([^;]+);", said))
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    subprocess.run(["ssh-add", "-q", str(mine)], check=True, stdin=subprocess.DEVNULL)
    yield
    subprocess.run(["ssh-agent", "-k"], capture_output=True, check=True)


@pytest.mark.usefixtures("agent")
async def test_an_agents_key_lets_in(host: Host) -> None:
    there = shell(host, host.by_key, None)
    assert (await there.run(["id"], user=ME)).stdout == "id\n"
    await there.close()


async def test_without_an_agent_it_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(Unavailable, match="there is no ssh agent"):
        await shell(host, host.by_key, None).run(["id"], user=ME)


async def test_a_closed_door_is_not_knocked_at_all_the_time(host: Host, tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(strange)
    there = shell(host, host.by_key, strange)
    for _ in range(20):
        with pytest.raises(Unavailable, match=f"does not let {ME} in") as caught:
            await there.run(["true"], user=ME)
        assert caught.value.details["started"] is False
    assert len(host.knocks) < 5


async def test_a_session_that_the_host_has_yet_to_clear_away_is_waited_for(host: Host, mine: Path) -> None:
    there = shell(host, host.by_key, mine)
    for refused in (0, 3):
        host.full = refused
        assert (await there.run(["id"], user=ME, timeout=120)).returncode == 0
    assert host.full == -1
    await there.close()


async def test_room_that_comes_free_is_not_lost_with_who_gives_up_waiting_for_it() -> None:
    link = _Link(cast("asyncssh.SSHClientConnection", None), limit=1)
    first, hasty, patient = (Session(link) for _ in range(3))
    await first._enter()
    giving_up, staying = (asyncio.create_task(one._enter()) for one in (hasty, patient))
    await until_so(lambda: len(link.ended._waiters) == 2)
    await first.leave()
    giving_up.cancel()  # it was told a moment ago
    async with asyncio.timeout(60):
        await staying
    assert link.running == 1


async def test_what_we_wait_for_is_ended_there_as_well(host: Host, mine: Path) -> None:
    there = shell(host, host.by_key, mine)
    assert (await there.run(["sbatch"], user=ME, timeout=30)).stdout == "timeout -k 5 32 sbatch\n"
    await there.close()


def test_one_way_to_log_in_and_known_hosts_are_demanded(mine: Path) -> None:
    given = {"ssh_host": "login", "known_hosts_file": mine, "ssh_key_file": mine}
    assert connect(ClusterSettings.model_validate(given), name="c").shell
    for wrong, words in (
        ({"known_hosts_file": None}, "known_hosts_file is not set"),
        ({"ssh_key_file": None}, "user_ca_key_file"),
        ({"ssh_agent": True}, "more than one of"),
    ):
        with pytest.raises(SettingsInvalid, match=words):
            connect(ClusterSettings.model_validate({**given, **wrong}), name="c")
