"""Terminals and tunnels of a real agent process: what is typed, shown, signalled, ended, and how fast it may come."""

import contextlib
import hashlib
import json
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.agent import frames
from tests.agent.conftest import PROGRAM, Authority, RunningAgent, end, wait_for

HEAD = struct.Struct(">BI")
TERMINAL, FORWARD = "sluice-terminal", "sluice-forward"


class Caller:
    """One connection of the gateway's that carries messages."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self.sock.settimeout(60)
        self.stream = sock.makefile("rb")
        self.taken = 0
        self.last: dict[str, Any] = {}

    def send(self, kind: int, content: bytes) -> None:
        self.sock.sendall(HEAD.pack(kind, len(content)) + content)

    def say(self, **words: Any) -> None:
        self.send(frames.WORDS, json.dumps(words).encode())

    def next(self) -> tuple[int, bytes] | None:
        head = self.stream.read(HEAD.size)
        if len(head) < HEAD.size:
            return None
        kind, size = HEAD.unpack(head)
        return kind, self.stream.read(size)

    def words(self) -> dict[str, Any]:
        """The next words, whatever output comes before them."""
        while (message := self.next()) is not None:
            if message[0] == frames.WORDS:
                found: dict[str, Any] = json.loads(message[1])
                if "taken" not in found:
                    return found
        raise AssertionError("the connection ended without a word")

    def until(self, text: bytes) -> bytes:
        """Output, up to and with this."""
        shown = b""
        while text not in shown:
            message = self.next()
            assert message is not None, shown
            shown += message[1] if message[0] != frames.WORDS else b""
        return shown

    def rest(self) -> tuple[bytes, bytes, int | None]:
        """Both outputs to their end, and the exit code: who calls closes then."""
        out, err = b"", b""
        while (message := self.next()) is not None:
            kind, content = message
            out += content if kind == frames.OUTPUT else b""
            err += content if kind == frames.ERRORS else b""
            if kind == frames.WORDS:
                words = self.last = json.loads(content)
                self.taken += words.get("taken", 0)
                if "exit" in words or "closed" in words:
                    return out, err, words.get("exit")
        return out, err, None


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """A batch job whose program goes on."""
    folder = tmp_path_factory.mktemp("busy")
    running = RunningAgent(folder / "node", Authority(folder / "pki"))
    try:
        yield a_busy(running)
    finally:
        end(running)


def a_busy(agent: RunningAgent) -> RunningAgent:
    agent.start(agent.spec(container={"command": ["sleep", "600"], "env": {"COLOUR": "blue é"}}))
    agent.announced("running")
    return agent


@contextlib.contextmanager
def terminal(agent: Any, argv: list[str], word: str = "running", **start: Any) -> Iterator[Caller]:
    with contextlib.closing(agent.connect(TERMINAL, word)) as sock:
        caller = Caller(sock)
        caller.say(start={"argv": argv, **start})
        try:
            yield caller
        finally:
            caller.stream.close()


def test_a_program_runs_as_the_jobs_own_does(busy: Any) -> None:
    with terminal(busy, ["/bin/sh", "-c", 'echo "$COLOUR $SLUICE_SESSION"; pwd; echo no >&2; exit 7']) as caller:
        out, err, code = caller.rest()
    assert out.decode() == f"blue é 01ARZ3NDEKTSV4RRFFQ69G5FAV\n{busy.session}/work\n"
    assert (err, code) == (b"no\n", 7)


def test_input_is_passed_on_to_its_end(busy: Any) -> None:
    data = b"0123456789abcdef" * (1 << 16)
    with terminal(busy, ["sha256sum"]) as caller:
        caller.send(frames.INPUT, data)
        caller.send(frames.INPUT, b"")
        out, err, code = caller.rest()
    assert (out.split()[:1], err, code) == ([hashlib.sha256(data).hexdigest().encode()], b"", 0)
    assert caller.taken == len(data)


def test_a_terminal_is_one(busy: Any) -> None:
    with terminal(busy, [], tty=True, term="xterm", rows=40, columns=132) as caller:
        caller.send(frames.INPUT, b"stty size; echo $TERM; test -t 0 && echo yes-it-is\r")
        shown = caller.until(b"\nyes-it-is")
        assert b"40 132" in shown
        assert b"xterm" in shown
        caller.say(resize=[50, 100])
        caller.send(frames.INPUT, b"stty size\r")
        caller.until(b"50 100")
        caller.send(frames.INPUT, b"sh -c 'echo in''side; exec sleep 600'; echo on'ward'\r")
        caller.until(b"inside")  # what was typed is shown, too, and before it runs
        caller.send(frames.INPUT, b"\x03")  # Ctrl-C reaches what runs in the foreground
        caller.send(frames.INPUT, b"exit 3\r")
        assert caller.rest()[2] == 3


def test_signals_pass_input_that_nobody_reads(busy: Any) -> None:
    script = 'trap "echo caught; exit 5" INT; echo ready; while :; do sleep 0.05; done'
    with terminal(busy, ["/bin/sh", "-c", script]) as caller:
        caller.until(b"ready")
        for _ in range(8):
            caller.send(frames.INPUT, b"x" * (1 << 18))
        caller.say(signal="INT")
        out, _, code = caller.rest()
    assert (out, code) == (b"caught\n", 5)


def test_who_sends_more_than_is_taken_is_told(busy: Any) -> None:
    with terminal(busy, ["sleep", "600"]) as caller:
        for _ in range(20):
            caller.send(frames.INPUT, b"x" * (1 << 18))
        assert caller.words() == {"started": True, "joined": False}
        assert "faster than it was taken" in caller.words()["error"]


def test_a_program_whose_caller_has_gone_is_ended(busy: Any, tmp_path: Path) -> None:
    file = tmp_path / "hung-up"
    with terminal(
        busy, ["/bin/sh", "-c", f'trap "touch {file}; exit" HUP; echo up; while :; do sleep 0.05; done']
    ) as c:
        c.until(b"up")
    _until(file.exists)
    with terminal(busy, ["/bin/sh", "-c", 'trap "" HUP TERM; echo $$; while :; do sleep 0.05; done']) as caller:
        pid = int(caller.until(b"\n"))
    _until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_slow_reader_gets_all_of_it(busy: Any) -> None:
    size = 24 << 20
    with terminal(busy, ["head", "-c", str(size), "/dev/zero"]) as caller:
        _until(lambda: not any(_command(pid)[:1] == [b"head"] for pid in busy.descendants()) or _stuck(busy))
        out, _, code = caller.rest()
    assert (len(out), code) == (size, 0)


def test_it_waits_for_no_one_that_was_left_behind(busy: Any) -> None:
    with terminal(busy, ["/bin/sh", "-c", "sleep 600 & echo done"]) as caller:
        assert caller.rest()[::2] == (b"done\n", 0)


def test_what_cannot_be_started_is_told(busy: Any) -> None:
    for start in ({"argv": ["/bin/sh", "a\0b"]}, {"argv": 5}):
        with contextlib.closing(busy.connect(TERMINAL, "running")) as sock:
            caller = Caller(sock)
            caller.say(start=start)
            assert caller.words()["error"]
    with contextlib.closing(busy.connect(TERMINAL, "running")) as sock:
        caller = Caller(sock)
        caller.say(resize=[1, 1])
        assert "first message" in caller.words()["error"]


def test_terminals_end_with_the_job(agent: Any) -> None:
    busy = a_busy(agent)
    with terminal(busy, ["/bin/sh", "-c", "echo up; exec sleep 600"]) as caller:
        caller.until(b"up")
        busy.stop(signal.SIGTERM)
        busy.ends()
        caller.rest()
    assert caller.last["job_ends"] is True, "its user is told why"
    assert busy.descendants() == []


def test_a_service_has_terminals_before_it_is_ready_and_after(agent: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = ["python3", str(PROGRAM), "--after", str(go)]
    agent.start(agent.spec(service={"probe": {"kind": "http"}}, container={"command": command}))
    for word in ("running", "ready"):
        with terminal(agent, ["echo", word], word) as caller:
            assert caller.rest()[::2] == (f"{word}\n".encode(), 0)
        go.touch()


def test_a_tunnel_carries_bytes_whoever_speaks_first(busy: Any) -> None:
    with _greeter() as port, contextlib.closing(busy.connect(FORWARD, "running")) as sock:
        caller = Caller(sock)
        caller.say(port=port)
        assert caller.words() == {"open": True}
        assert caller.next() == (frames.OUTPUT, b"220 hello\n")
        caller.send(frames.INPUT, b"x" * (1 << 20))
        caller.send(frames.INPUT, b"")
        assert caller.rest()[0] == b"%d bytes\n" % (1 << 20)


def test_a_port_where_nobody_listens_is_told(busy: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with contextlib.closing(busy.connect(FORWARD, "running")) as sock:
            caller = Caller(sock)
            caller.say(port=port)
            assert caller.words() == {"error": f"nothing listens on port {port} of 127.0.0.1 there"}


@contextlib.contextmanager
def _greeter() -> Iterator[int]:
    """A server that speaks first, and then says how much it was sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 hello\n")
                size = 0
                while data := connection.recv(65536):
                    size += len(data)
                connection.sendall(b"%d bytes\n" % size)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def _stuck(agent: RunningAgent) -> bool:
    """The program waits for us: nothing of its output moves."""
    for pid in agent.descendants():
        if _command(pid)[:1] == [b"head"]:
            with contextlib.suppress(OSError):  # it has just ended
                return "pipe" in Path(f"/proc/{pid}/wchan").read_text()
    return True


def _command(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _until(question: Any) -> None:
    wait_for(lambda: True if question() else None, "what was waited for", 60.0)
