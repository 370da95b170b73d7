"""Into a running job: one command, a shell, a port; and what becomes of a connection when the session moves."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.ports import free_port
from tests.product import Product
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("images")]

ECHO = """
import os, socketserver, sys, threading
threading.Thread(target=lambda: sys.stdin.read() or os._exit(0), daemon=True).start()
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(sys.argv[2].encode() + b" " + line)
socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"""


@contextmanager
def running(command: list[str], environment: dict[str, str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    """Until the block is over: it is told by a signal, and by the end of its input where it runs on a node."""
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def inner(product: Product, images: None) -> Iterator[str]:
    del images
    done = product.sluice("launch", "several", "-p", "alias=inner", "--name", "inner", "--wait")
    assert done.returncode == 0, done.stderr
    yield "inner"
    product.sluice("stop", "inner", "--wait")


def test_a_command_and_a_shell_run_in_the_job_and_end_as_they_end(product: Product, inner: str) -> None:
    done = product.sluice("exec", inner, "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    command = [sys.executable, "-m", "gateway.cli.main", "shell", inner]
    typed = "cd /session && echo $((6*7)); exit 4\n"
    shell = subprocess.run(
        command, env=product.environment, input=typed, capture_output=True, text=True, check=False, timeout=120
    )
    assert (shell.returncode, shell.stdout) == (4, "42\n"), shell.stderr


def asked(connection: socket.socket, text: str) -> str:
    """A line sent, and the one that comes back; empty at the end of the connection."""
    connection.sendall(f"{text}\n".encode())
    with connection.makefile("r") as lines:
        return lines.readline().strip()


def test_a_port_is_reached_and_new_connections_find_the_job_after_the_session_has_moved(
    product: Product, inner: str
) -> None:
    port = free_port()
    with ExitStack() as stack:
        for node in ("node1", "node2"):
            program = product.cluster.exec_argv(node, ["python3", "-c", ECHO, str(port), node], "alice")
            stack.enter_context(running(program))
        words = [sys.executable, "-m", "gateway.cli.main", "forward", inner, f":{port}"]
        forward = stack.enter_context(running(words, product.environment))
        assert forward.stderr is not None
        told = re.match(r"127\.0\.0\.1:(\d+) is port", forward.stderr.readline())
        assert told is not None
        address = "127.0.0.1", int(told[1])

        def answer() -> str:
            with socket.create_connection(address, 60) as connection:
                return asked(connection, "hello")

        first = product.json("show", inner)["job"]["nodes"]
        until(answer, lambda said: said == f"{first} hello")
        with socket.create_connection(address, 240) as kept:
            assert asked(kept, "kept") == f"{first} kept"
            product.cluster.exec("ctl", ["scontrol", "update", f"nodename={first}", "state=drain", "reason=test"])
            try:
                until(answer, lambda said: said not in {"", f"{first} hello"}, within=180)
                assert kept.recv(1) == b"", "it is closed with its job, and its user told"
            finally:
                product.cluster.exec("ctl", ["scontrol", "update", f"nodename={first}", "state=resume"])
        for line in forward.stderr:  # others came while there was no job to go to, and were told so
            if "the connection ended with its job" in line:
                break
        else:
            pytest.fail("its user was not told")
    moved = product.json("show", inner)
    assert (moved["phase"], moved["job"]["nodes"] != first) == ("ready", True)
