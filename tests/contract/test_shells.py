"""Running programs: here, and over ssh on the cluster's login host."""

import asyncio
import os
import pwd
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.core.ports import Shell
from gateway.errors import Forbidden, Invalid, Unavailable
from gateway.slurm.ssh import SshConnections
from gateway.slurm.ssh_login import SshTarget
from gateway.slurm.transport import LocalShell, SshShell


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.cluster)])
async def there(request: pytest.FixtureRequest, connected: Any) -> AsyncIterator[tuple[Shell, str]]:
    if request.param == "local":
        yield LocalShell(), pwd.getpwuid(os.getuid()).pw_name
        return
    backend = connected(request.getfixturevalue("slurm_cluster"))
    yield backend.shell, "alice"
    await backend.close()


async def test_arguments_input_and_output_arrive_as_they_are(there: tuple[Shell, str]) -> None:
    shell, user = there
    words = ["it's", "$HOME", "a  b", "*", "é", "", "-n", "a\nb"]
    done = await shell.run(["printf", "%s|", *words], user=user)
    assert (done.returncode, done.stdout) == (0, "".join(f"{word}|" for word in words))
    done = await shell.run(["sh", "-c", "cat; id -un >&2; exit 3"], user=user, stdin=b"in\n" * 50_000)
    assert (done.returncode, done.stdout, done.stderr) == (3, "in\n" * 50_000, f"{user}\n")


async def test_lines_come_as_they_are_printed(there: tuple[Shell, str]) -> None:
    shell, user = there
    lines: list[str] = []
    done = await shell.run(
        ["sh", "-c", "printf 'one\\ntwo'; head -c 200000 /dev/zero | tr '\\0' x >&2"], user=user, on_line=lines.append
    )
    assert sorted(lines, key=len) == ["one", "two", "x" * 200_000]
    assert done.stdout == "one\ntwo"


async def test_the_environment_is_added_to(there: tuple[Shell, str]) -> None:
    shell, user = there
    done = await shell.run(["sh", "-c", 'echo "$WORD"; test -n "$PATH"'], user=user, env={"WORD": "a 'b' $c"})
    assert (done.returncode, done.stdout) == (0, "a 'b' $c\n")


async def test_a_command_that_takes_too_long_is_ended_and_may_have_run(there: tuple[Shell, str]) -> None:
    shell, user = there
    await shell.run(["true"], user=user)  # the connection is there: what is timed is the command
    with pytest.raises(Unavailable, match=r"did not end within 3 s") as caught:
        await shell.run(["sleep", "3600"], user=user, timeout=3)
    assert caught.value.details["started"] is True
    assert (await shell.run(["echo", "still here"], user=user)).stdout == "still here\n"


async def test_a_command_killed_by_a_signal_says_so(there: tuple[Shell, str]) -> None:
    shell, user = there
    done = await shell.run(["sh", "-c", "kill -KILL $$"], user=user)
    assert done.returncode in {-9, 137}


async def test_nothing_and_nul_are_no_commands(there: tuple[Shell, str]) -> None:
    shell, user = there
    with pytest.raises(Invalid):
        await shell.run([], user=user)
    with pytest.raises(Invalid):
        await shell.run(["echo", "a\0b"], user=user)


async def test_here_nothing_runs_as_somebody_else() -> None:
    with pytest.raises(Forbidden, match="starts nothing as"):
        await LocalShell().run(["true"], user="somebody-else")


async def test_a_program_that_is_not_here_was_certainly_not_run() -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    with pytest.raises(Unavailable) as caught:
        await LocalShell().run(["/no/such/program"], user=me)
    assert caught.value.details["started"] is False


@pytest.mark.cluster
async def test_nobody_there_is_certain_too(slurm_cluster: Any, connected: Any) -> None:
    backend = connected(slurm_cluster, ssh_port=9)
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        await backend.shell.run(["true"], user="alice")
    assert caught.value.details["started"] is False
    await backend.close()


@pytest.mark.cluster
async def test_the_build_host_is_another_machine(slurm_cluster: Any, connected: Any) -> None:
    backend = connected(slurm_cluster)
    names = [(await shell.run(["hostname"], user="alice")).stdout for shell in (backend.shell, backend.build_shell)]
    assert names == ["login\n", "build\n"]
    await backend.close()


@pytest.mark.cluster
async def test_many_commands_share_one_connection(slurm_cluster: Any, connected: Any) -> None:
    backend = connected(slurm_cluster)
    asked = ["sh", "-c", 'echo "$SSH_CONNECTION"']
    done = await asyncio.gather(*(backend.shell.run(asked, user="alice") for _ in range(30)))
    assert len({one.stdout for one in done}) == 1
    assert done[0].stdout.strip()
    await backend.files.write("alice", ".sluice-shared", b"x")
    await backend.files.remove("alice", ".sluice-shared")
    await backend.close()
    await backend.close()


@pytest.mark.cluster
async def test_an_idle_connection_is_closed_and_opened_again_when_needed(slurm_cluster: Any, until: Any) -> None:
    target = SshTarget(slurm_cluster.addresses["login"], 22, slurm_cluster.known_hosts, slurm_cluster.user_ca_key)
    connections = SshConnections(target, time.time, idle=0.2)
    shell = SshShell(connections)
    asked = ["sh", "-c", 'echo "$SSH_CONNECTION"']
    first = await shell.run(asked, user="alice")
    link = connections._links["alice"]

    async def closed() -> bool:
        return link.connection.is_closed()

    await until(closed, lambda yes: yes)
    assert (await shell.run(asked, user="alice")).stdout != first.stdout
    await shell.close()


@pytest.mark.cluster
async def test_a_certificate_is_of_minutes_and_of_one_user(slurm_cluster: Any) -> None:
    target = SshTarget(slurm_cluster.addresses["login"], 22, slurm_cluster.known_hosts, slurm_cluster.user_ca_key)
    late = SshShell(SshConnections(target, lambda: time.time() - 3600))
    with pytest.raises(Unavailable, match="does not let alice in") as caught:
        await late.run(["true"], user="alice")
    assert caught.value.details["started"] is False
    with pytest.raises(Unavailable, match="does not let nobody-here in"):
        await SshShell(SshConnections(target, time.time)).run(["true"], user="nobody-here")


@pytest.fixture
async def small_sshd(slurm_cluster: Any, until: Any) -> AsyncIterator[int]:
    """The port of a second sshd on the login host that opens three sessions a connection."""
    port, pid = 2300 + os.getpid() % 500, "/run/sshd/small.pid"
    options = ["MaxSessions=3", f"PidFile={pid}"]
    argv = ["/usr/sbin/sshd", "-p", str(port), *(word for option in options for word in ("-o", option))]
    slurm_cluster.exec("login", argv)

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection(slurm_cluster.addresses["login"], port)
        except OSError:
            return False
        writer.close()
        return True

    await until(listens, lambda yes: yes)
    yield port
    slurm_cluster.exec("login", ["sh", "-c", f"kill $(cat {pid})"])


@pytest.mark.cluster
async def test_a_host_that_opens_few_sessions_gets_them_one_after_the_other(
    slurm_cluster: Any, connected: Any, small_sshd: int, tmp_path: Any
) -> None:
    known = tmp_path / "known_hosts"
    host = slurm_cluster.addresses["login"]
    lines = (line.split(" ", 1) for line in slurm_cluster.known_hosts.read_text().splitlines())
    known.write_text("".join(f"[{host}]:{small_sshd} {key}\n" for hosts, key in lines if host in hosts.split(",")))
    backend = connected(slurm_cluster, ssh_port=small_sshd, known_hosts_file=known, build_host=None)
    await backend.files.write("alice", ".sluice-few", b"x")  # SFTP holds one of the three
    asked = ["sh", "-c", 'echo "$SSH_CONNECTION"; sleep 0.2']
    done = await asyncio.gather(*(backend.shell.run(asked, user="alice", timeout=60) for _ in range(12)))
    assert len({one.stdout for one in done}) == 1  # one connection, and none was refused
    assert {one.returncode for one in done} == {0}
    await backend.files.remove("alice", ".sluice-few")
    await backend.close()


@pytest.mark.cluster
async def test_what_is_no_longer_waited_for_does_not_run_on(
    slurm_cluster: Any, connected: Any, run: str, until: Any
) -> None:
    backend = connected(slurm_cluster)
    deaf = ["sh", "-c", f"trap '' TERM HUP; : {run}; while :; do sleep 1; done"]
    with pytest.raises(Unavailable, match="did not end within"):
        await backend.shell.run(deaf, user="alice", timeout=0.5)

    async def found() -> int:
        """By pgrep: 0 some, 1 none, and any other if it could not say."""
        done: int = slurm_cluster.exec("login", ["pgrep", "-f", run], user="alice", check=False).returncode
        return done

    await until(found, lambda code: code == 1)
    await backend.close()
