"""Whose port it is, and which address of the node is told."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gateway.agent.announce import advertised, endpoint
from gateway.agent.dial import refuse_foreign
from gateway.agent.probe import check

LISTEN = """
import os, socket
os.setuid(65534)
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
s.accept()
"""


@pytest.fixture
def foreign_port() -> Iterator[int]:
    """A port on which a program of another user listens."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a program as another user")
    argv = [sys.executable, "-I", "-S", "-c", LISTEN]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        line = program.stdout.readline()
        try:
            yield int(line)
        finally:
            program.kill()


def test_a_port_that_another_user_took_is_not_believed(foreign_port: int) -> None:
    with pytest.raises(PermissionError, match="another user"):
        refuse_foreign(foreign_port)
    assert "another user" in (check({"kind": "tcp"}, foreign_port, 5) or "")


def test_our_own_port_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        refuse_foreign(ours.getsockname()[1])
        assert check({"kind": "tcp"}, ours.getsockname()[1], 5) is None


def test_the_address_may_be_given() -> None:
    assert advertised({"SLUICE_ADVERTISE": "node7.example"}) == "node7.example"


def test_an_address_that_is_only_the_nodes_own_is_not_told() -> None:
    try:
        found = advertised({"SLURMD_NODENAME": "localhost"})
    except OSError as error:
        assert "SLUICE_ADVERTISE" in str(error)  # noqa: PT017  # a machine without a network
    else:
        assert not found.startswith("127.")
        assert found != "::1"


def test_addresses_are_written_as_in_urls() -> None:
    assert endpoint("10.0.0.1", 80) == "10.0.0.1:80"
    assert endpoint("fd00::1", 80) == "[fd00::1]:80"
