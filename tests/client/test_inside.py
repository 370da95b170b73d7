"""Into a running job by the client service and the command line, with a real agent in it: who may, and what passes."""

import asyncio
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.client.app import paths_of
from gateway.core import inside, tokens
from gateway.core.policies import Policies
from gateway.errors import EndpointUnavailable, Forbidden, PolicyDenied
from gateway.model.audit import AuditQuery
from gateway.model.principal import Principal, Role, Scope
from gateway.model.session import Phase
from gateway.model.token import TokenRequest
from gateway.network.channels import TERMINAL, open_channel
from gateway.store import audit
from tests.agent.conftest import Authority, RunningAgent, end
from tests.services import ADMIN

WITHIN = 120
Way = Callable[["Job", str], Coroutine[Any, Any, None]]
pytestmark = pytest.mark.usefixtures("hears_ctrl_c")
both_ways = pytest.mark.parametrize("way", ["direct", "ssh"])


@dataclass
class Job:
    """A session of a data plane, and the agent of its job."""

    plane: Any
    agent: RunningAgent
    name: str

    def command(self, *words: str) -> tuple[list[str], dict[str, str]]:
        environment = {**os.environ, "SLUICE_URL": self.plane.url, "SLUICE_TOKEN": self.plane.site.token}
        return [sys.executable, "-m", "gateway.cli.main", *words], environment

    async def sluice(self, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """A command as a user types it."""
        argv, environment = self.command(*words)
        return await asyncio.to_thread(
            lambda: subprocess.run(argv, env=environment, input=given, capture_output=True, check=False, timeout=WITHIN)
        )


@pytest.fixture
async def job(plane: Any, tmp_path: Path) -> AsyncIterator[Job]:
    """A batch session whose program goes on."""
    authority = Authority(tmp_path / "pki")
    authority.pem = plane.site.pki.ca_pem
    agent = RunningAgent(tmp_path / "node", authority)
    agent.start(agent.spec(container={"command": ["sleep", "600"], "env": {"COLOUR": "blue"}}))
    try:
        await asyncio.to_thread(agent.announced, "running")
        session = await plane.site.create("count", name="job")
        job_id = await plane.site.job_id(session.id)
        plane.site.slurm.start(job_id)
        plane.site.slurm.announce(job_id, next(one for one in agent.all_comments if " running " in one))
        await plane.site.reaches(session.id, Phase.READY)
        yield Job(plane, agent, "job")
    finally:
        await asyncio.to_thread(end, agent)


async def test_a_command_runs_in_the_job(job: Job) -> None:
    done = await job.sluice("exec", "job", "--", "sh", "-c", "echo $COLOUR; cat; echo no >&2; exit 9", given=b"typed")
    assert (done.stdout, done.stderr, done.returncode) == (b"blue\ntyped", b"no\n", 9)


@both_ways
async def test_much_passes_both_ways_whole(job: Job) -> None:
    data = os.urandom(1 << 20) * 8
    done = await job.sluice("exec", "job", "cat", given=data)
    assert done.stdout == data
    done = await job.sluice("exec", "job", "--", "true", given=data)
    assert done.returncode == 0, "a program that reads nothing ends all the same"


@both_ways
async def test_a_signal_reaches_the_command(job: Job) -> None:
    argv, environment = job.command(
        "exec", "job", "--", "sh", "-c", 'trap "exit 3" INT; echo up; while :; do sleep 0.1; done'
    )

    def interrupt() -> int:
        with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            process.send_signal(signal.SIGINT)
            return process.wait(WITHIN)

    assert await asyncio.to_thread(interrupt) == 3


@both_ways
async def test_a_shell_has_our_terminal(job: Job) -> None:
    argv, environment = job.command("shell", "job")

    def talk() -> int:
        master, slave = pty.openpty()
        set_size(master, 33, 111)
        process = subprocess.Popen(
            argv, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        try:
            os.write(master, b"stty size; echo is'-'up\r")
            assert b"33 111" in until(master, b"is-up")
            set_size(master, 44, 99)
            os.kill(process.pid, signal.SIGWINCH)
            os.write(master, b"until stty size | grep '44 99'; do sleep 0.1; done; echo resize'-'d\r")
            until(master, b"resize-d")
            os.write(master, b"exit 6\r")
            return process.wait(WITHIN)
        finally:
            process.kill()
            process.wait()
            os.close(master)

    assert await asyncio.to_thread(talk) == 6


@both_ways
async def test_ports_of_the_job_are_here(job: Job) -> None:
    argv, environment = job.command("forward", "job")

    def try_them() -> None:
        with (
            greeter() as port,
            closed_port() as closed,
            forwarding([*argv, f":{port}", f":{closed}"], environment) as (places, errors),
        ):
            for _ in range(3):
                with (
                    socket.create_connection(places[0], WITHIN) as one,
                    socket.create_connection(places[0], WITHIN) as two,
                ):
                    for caller in (one, two):
                        caller.settimeout(WITHIN)
                        assert caller.recv(64) == b"220 hello\n"
                        caller.sendall(b"x" * 300_000)
                        caller.shutdown(socket.SHUT_WR)
                        assert read_all(caller) == b"300000 bytes\n"
            with socket.create_connection(places[1], WITHIN) as refused:
                refused.settimeout(WITHIN)
                assert refused.recv(1) == b""
            assert b"nothing listens on port" in errors.readline()

    await asyncio.to_thread(try_them)


async def test_a_new_connection_finds_the_job_that_the_session_has_then(job: Job) -> None:
    argv, environment = job.command("forward", "job")
    site = job.plane.site
    session = await site.get("job")

    def use(mapped: Callable[[], None]) -> bytes:
        with greeter() as port, forwarding([*argv, f":{port}"], environment) as (places, _):
            mapped()
            with socket.create_connection(places[0], WITHIN) as caller:
                caller.settimeout(WITHIN)
                return caller.recv(64)

    silent, going = asyncio.Event(), asyncio.get_running_loop()

    def fall_silent() -> None:
        site.slurm.announce(session.job.job_id, "sluice/1")
        going.call_soon_threadsafe(silent.set)

    using = asyncio.create_task(asyncio.to_thread(use, fall_silent))
    await silent.wait()

    async def unknown() -> bool:
        return bool((await site.get("job")).job.comment == "sluice/1")

    await site.until(unknown, "the agent says nothing")
    site.slurm.announce(session.job.job_id, next(one for one in job.agent.all_comments if " running " in one))
    assert await using == b"220 hello\n"


async def test_who_went_in_is_written_down(job: Job) -> None:
    await job.sluice("exec", "job", "--", "echo", "s3cret")
    lines, _ = await job.plane.site.gateway.db.read(audit.find, ADMIN, AuditQuery(action="session.exec"))
    assert [line.details for line in lines] == [{"name": "job", "program": "echo", "terminal": False}]
    assert lines[0].session == (await job.plane.site.get("job")).id
    with greeter() as port:
        for _ in range(2):
            async with connect(
                f"{address(job)}/ports/{port}", additional_headers=job.plane.site.auth, open_timeout=WITHIN
            ) as opened:
                assert await opened.recv() == b'\x03{"open": true}'
                assert await opened.recv() == b"\x01220 hello\n"
    lines, _ = await job.plane.site.gateway.db.read(audit.find, ADMIN, AuditQuery(action="session.forward"))
    assert [line.details for line in lines] == [{"name": "job", "port": port}]


async def test_only_the_owner_goes_in(job: Job) -> None:
    gateway = job.plane.site.gateway
    for stranger in (Principal(name="bob", admin=True), Principal(name="bob", projects={"default": Role.MANAGER})):
        with pytest.raises(Forbidden):
            await inside.enter(gateway, stranger, (await job.plane.site.get("job")).id)
    weak = await tokens.create(gateway, ADMIN, TokenRequest(name="weak", scopes=[Scope.READ, Scope.INFERENCE]))
    for place, headers, status in (
        ("terminal", {}, 401),
        ("terminal", {"Authorization": f"Bearer {weak.token}"}, 403),
        ("ports/80", {"Authorization": f"Bearer {weak.token}"}, 403),
        ("ports/80000", job.plane.site.auth, 404),
    ):
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"{address(job)}/{place}", additional_headers=headers, open_timeout=WITHIN)
        assert caught.value.response.status_code == status


async def test_a_site_may_forbid_it(job: Job, tmp_path: Path) -> None:
    (tmp_path / "site.cedar").write_text(
        '@id("no-terminals")\n@allows("nobody goes into jobs here")\n'
        'forbid (principal, action == Action::"enter", resource);\n'
    )
    gateway = replace(job.plane.site.gateway, policies=Policies([tmp_path]))
    with pytest.raises(PolicyDenied, match="no-terminals"):
        await inside.enter(gateway, ADMIN, "job")


async def revoked(job: Job, token_id: str) -> None:
    await tokens.revoke(job.plane.site.gateway, ADMIN, token_id)


async def forbidden(job: Job, token_id: str) -> None:
    del token_id
    said = '@id("no-terminals")\n@allows("none now")\nforbid (principal, action == Action::"enter", resource);\n'
    (job.plane.policies / "site.cedar").write_text(said)


@pytest.mark.parametrize(("way", "code"), [(revoked, "unauthenticated"), (forbidden, "policy_denied")])
async def test_who_may_not_be_in_there_any_more_is_put_out(job: Job, way: Way, code: str) -> None:
    """A terminal and a port that are open end, and the terminal says why."""
    made = await tokens.create(job.plane.site.gateway, ADMIN, TokenRequest(name="inside", scopes=[Scope.WRITE]))
    auth = {"Authorization": f"Bearer {made.token}"}
    with greeter() as port:
        async with (
            asyncio.timeout(WITHIN),
            connect(f"{address(job)}/terminal", additional_headers=auth, open_timeout=WITHIN) as terminal,
            connect(f"{address(job)}/ports/{port}", additional_headers=auth, open_timeout=WITHIN) as opened,
        ):
            await terminal.send(b'\x03{"start": {"argv": ["sh", "-c", "echo up; exec sleep 600"]}}')
            heard = b""
            while b"up\n" not in heard:
                heard += await terminal.recv(decode=False)
            assert await opened.recv() == b'\x03{"open": true}'
            await way(job, made.id)
            said = [message async for message in terminal]
            await opened.wait_closed()
    assert json.loads(said[-1][1:])["code"] == code


async def test_what_is_not_there_is_told(job: Job) -> None:
    done = await job.sluice("exec", "nosuch", "ls")
    assert (done.returncode, b"no session 'nosuch'" in done.stderr) == (3, True)
    job.plane.site.slurm.finish((await job.plane.site.get("job")).job.job_id)
    await job.plane.site.reaches("job", Phase.SUCCEEDED)
    done = await job.sluice("exec", "job", "ls")
    assert (done.returncode, b"has ended" in done.stderr) == (7, True)
    done = await job.sluice("exec", "job", "--", "no-such-program")
    assert done.returncode != 0


async def ended_by(job: Job, act: Callable[[], None]) -> tuple[int, bytes]:
    """What a command that would go on says when something is done to its job: its exit code, and its words."""
    argv, environment = job.command("exec", "job", "--", "sh", "-c", "echo up; exec sleep 600")

    def run() -> tuple[int, bytes]:
        with subprocess.Popen(
            argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"up\n"
            act()
            return process.wait(WITHIN), process.stderr.read()

    return await asyncio.to_thread(run)


async def test_a_job_that_dies_ends_the_command(job: Job) -> None:
    code, said = await ended_by(job, job.agent.process.kill)
    assert code == 5
    assert b"broke" in said or b"lost" in said


async def test_who_is_inside_a_job_that_is_ended_is_told(job: Job) -> None:
    code, said = await ended_by(job, lambda: job.agent.stop(signal.SIGTERM))
    assert code > 128, "it ended by a signal"
    assert b"ended with its job" in said


async def test_an_agent_that_knows_no_terminals_is_told(plane: Any) -> None:
    endpoint = await plane.node(silent_service)
    with pytest.raises(EndpointUnavailable, match="older than this gateway"):
        await open_channel(paths_of(plane.site.gateway)("c"), endpoint, TERMINAL)


async def silent_service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del writer
    await reader.read()


def address(job: Job) -> str:
    return f"{job.plane.url.replace('http', 'ws')}/inside/{job.name}"


def set_size(descriptor: int, rows: int, columns: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def until(descriptor: int, text: bytes) -> bytes:
    """What a terminal shows, up to and with this text."""
    shown, deadline = b"", time.monotonic() + WITHIN
    while text not in shown:
        left = deadline - time.monotonic()
        assert left > 0, shown
        if select.select([descriptor], [], [], left)[0]:
            shown += os.read(descriptor, 4096)
    return shown


def read_all(caller: socket.socket) -> bytes:
    return b"".join(iter(lambda: caller.recv(4096), b""))


@contextmanager
def closed_port() -> Iterator[int]:
    """Where nobody listens, and nobody can: it is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def greeter() -> Iterator[int]:
    """A server that speaks first, and then says how much it was sent; the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def one(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.sendall(b"220 hello\n")
                size = 0
                while data := connection.recv(65536):
                    size += len(data)
                connection.sendall(b"%d bytes\n" % size)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=one, args=(server.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def forwarding(argv: list[str], environment: dict[str, str]) -> Iterator[tuple[list[tuple[str, int]], IO[bytes]]]:
    """`sluice forward`, ended by Ctrl-C; where it listens, and what else it says."""
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stderr is not None
    try:
        places = []
        for _ in argv[argv.index("forward") + 2 :]:
            host, _, port = process.stderr.readline().split()[0].decode().partition(":")
            places.append((host, int(port)))
        yield places, process.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN) == 130
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
