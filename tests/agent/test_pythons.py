"""The agent's whole way on every Python that a node may have: start, ready, requests, stop, nothing left."""

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def works(program: str) -> bool:
    return subprocess.run([program, "-V"], capture_output=True, check=False).returncode == 0


def pythons() -> list[str]:
    """The oldest and the newest that the agent is tested on, where the machine has them, and the one that runs us."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    for minor in (8, 13):
        version = f"3.{minor}"
        installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
        program = str(installed[-1]) if installed else shutil.which(f"python{version}")
        if version not in found and program and works(program):
            found[version] = program
    return list(found.values())


@pytest.mark.parametrize("python", pythons())
def test_a_service_from_start_to_stop(agent: Any, python: str) -> None:
    agent.python = python
    agent.start(agent.spec(container={"env": {"COLOUR": "blue, or so"}}), SLURM_PROCID="0", SECRET_OF_MINE="x")

    status, body = agent.get("/about")
    about = json.loads(body)
    assert status == 200
    assert about["env"]["COLOUR"] == "blue, or so"
    assert about["env"]["SLURM_PROCID"] == "0"
    assert about["env"]["SLUICE_SESSION"] == "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert "SECRET_OF_MINE" not in about["env"]
    assert about["cwd"] == str(agent.session / "work")

    answer = agent.ask("status", usage=True)
    assert answer["ok"]
    assert (answer["phase"], answer["in_flight"], answer["requests"]) == ("ready", 0, 1)
    assert answer["usage"]["processes"] >= 1

    agent.stop()
    assert agent.ends() == 0
    assert agent.comments[-1] == "sluice/1 ended reason=stopped code=0"
    assert agent.descendants() == []
    assert list(agent.tmp.iterdir()) == []
    for path in agent.session.iterdir():
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077


@pytest.mark.parametrize("python", pythons())
def test_a_stream_is_finished_and_a_stubborn_program_killed(agent: Any, python: str) -> None:
    agent.python = python
    command = [*agent.spec().container.command, "--ignore-term", "99", "--child"]
    agent.start(agent.spec(container={"command": command}, secrets=["TOKEN"], stop={"grace": 3, "kill_after": 6}))
    assert agent.ask("secrets", word="secrets", values={"TOKEN": "\u0080\r\n"})["ok"]
    assert json.loads(agent.get("/about")[1])["env"]["TOKEN"] == "\u0080\r\n"
    with agent.connect() as sock:
        sock.sendall(b"GET /stream?n=4&gap=0.1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert sock.recv(1)
        agent.stop()
        with sock.makefile("rb") as stream:
            assert stream.read().partition(b"HTTP/1.1 503 Not Taken")[0].endswith(b"0\r\n\r\n")
    assert agent.ends() == 0
    assert agent.descendants() == []


@pytest.fixture
def large_body() -> bytes:
    return bytes(range(256)) * 20_000


@pytest.mark.parametrize("python", pythons())
def test_large_bodies_arrive_unchanged_both_ways(agent: Any, python: str, large_body: bytes) -> None:
    agent.python = python
    agent.start(agent.spec())
    with agent.connect() as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(large_body) + large_body)
        with sock.makefile("rb") as stream:
            while stream.readline().strip():
                pass
            assert stream.read(len(large_body)) == large_body
    agent.stop()
    assert agent.ends() == 0
