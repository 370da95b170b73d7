"""`sluice up` and `sluice down` as people run them: real processes, and on a real cluster where it is marked so."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import daemon
from gateway.cluster import Cluster, all_names
from tests.ports import free_port

HERE = Path(__file__).parents[2]
Run = Callable[..., Any]


def cluster(name: str) -> str:
    """Settings of a Slurm that does not answer."""
    return f'[clusters.{name}]\nbackend = "cli"\nunix_user = "nobody"\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def sluice(tmp_path: Path, place: Path) -> Iterator[Run]:
    """Runs `sluice ... --json` in a folder of its own: what it printed, or its error. All is ended at the end."""
    gone = {"SLUICE_URL", "SLUICE_TOKEN", "SLUICE_CONFIG"}
    environ = {name: value for name, value in os.environ.items() if name not in gone}
    environ |= {"SLUICE_STATE_DIR": str(place), "PYTHONPATH": str(HERE), "HOME": str(tmp_path)}

    def run(*arguments: str, code: int = 0) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli.main", *arguments, "--json"],
            env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if code == 0 else json.loads(done.stderr)["error"]

    yield run
    run("down")
    left = daemon.find(place)
    assert left is None


@pytest.fixture
def own(tmp_path: Path, place: Path) -> int:
    """A sluice.toml of a person's own, before a Slurm that does not answer; the port in it."""
    port = free_port()
    text = f'state_dir = "{place}"\n[serve]\nall_port = {port}\n{cluster("far")}'
    (tmp_path / "sluice.toml").write_text(text)
    return port


def running(place: Path) -> daemon.Daemon:
    found = daemon.find(place)
    assert found is not None
    return found


def test_settings_of_ones_own_are_used_as_they_are(sluice: Run, place: Path, own: int) -> None:
    told = sluice("up", "--no-demo")
    assert told["url"] == f"http://127.0.0.1:{own}"
    first = running(place)
    assert sluice("status")["clusters"][0]["name"] == "far"
    assert sluice("env")["SLUICE_URL"] == told["url"]
    sluice("up", "--no-demo")
    assert running(place) == first
    assert "The port is set in" in sluice("up", "--no-demo", "--port", "1", code=2)["message"]
    assert not (place / "sluice.toml").exists()
    assert sluice("down")["ended"] == ["gateway"]
    assert not first.alive
    assert sluice("down")["ended"] == []


def test_a_gateway_that_was_killed_is_started_again(sluice: Run, place: Path, own: int) -> None:
    del own
    sluice("up", "--no-demo")
    first = running(place)
    token = sluice("env")["SLUICE_TOKEN"]
    os.kill(first.pid, signal.SIGKILL)
    sluice("up", "--no-demo")
    assert running(place).pid != first.pid
    assert sluice("env")["SLUICE_TOKEN"] == token


def test_changed_settings_start_it_anew(sluice: Run, place: Path, own: int, tmp_path: Path) -> None:
    sluice("up", "--no-demo")
    first = running(place)
    with (tmp_path / "sluice.toml").open("a") as file:
        file.write(cluster("near"))
    error = sluice("up", "--no-demo", code=3)
    assert "there is no single default" in error["message"]
    text = (tmp_path / "sluice.toml").read_text()
    (tmp_path / "sluice.toml").write_text(f'default_cluster = "near"\n{text}')
    sluice("up", "--no-demo")
    assert not first.alive
    assert [cluster["name"] for cluster in sluice("status")["clusters"]] == ["far", "near"]
    assert running(place).url == f"http://127.0.0.1:{own}"


def test_a_taken_port_is_told(sluice: Run, own: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", own))
        taken.listen()
        error = sluice("up", "--no-demo", code=2)
    assert f"cannot listen on 127.0.0.1:{own}" in error["message"]


def test_settings_without_a_cluster_are_told(sluice: Run, tmp_path: Path) -> None:
    (tmp_path / "sluice.toml").write_text("[serve]\nall_port = 8001\n")
    error = sluice("up", "--no-demo", code=2)
    assert "names no cluster" in error["message"]
    (tmp_path / "sluice.toml").unlink()


@pytest.mark.cluster
@pytest.mark.skipif(os.geteuid() != 0, reason="a local cluster needs root")
def test_a_cluster_of_its_own_comes_and_goes(sluice: Run, place: Path) -> None:
    name, port = f"u{os.getpid()}", free_port()
    try:
        sluice("up", "--name", name, "--port", str(port), "--cluster-nodes", "1", "--no-demo")
        first, created = running(place), Cluster.load(name).record.created
        assert sluice("config", "path")["path"] == str(place / "sluice.toml")
        error = sluice("launch", "llama-cpp", code=3)
        assert "sluice image build llama-cpp" in error["hint"]
        sluice("up", "--name", name, "--no-demo")
        assert running(place) == first
        assert "is up" in sluice("up", "--name", "other", "--no-demo", code=7)["message"]
        Cluster.load(name).down()  # behind our back
        sluice("up", "--name", name, "--no-demo")
        assert running(place).pid != first.pid
        assert Cluster.load(name).record.created >= created
        assert sluice("down")["ended"] == ["gateway", "cluster"]
        assert name not in all_names()
        kept = {path.name for path in place.iterdir() if path.suffix != ".lock"}
        assert kept == {"gateway.log", "images", "pki", "seal.key", "secrets.keys", "token"}
        sluice("down", "--purge")
        assert list(place.iterdir()) == []
    finally:
        if name in all_names():
            Cluster.load(name).down()


@pytest.mark.cluster
def test_a_question_is_answered_on_a_cluster_that_was_there(sluice: Run, slurm_cluster: Cluster) -> None:
    told = sluice("up", "--name", slurm_cluster.name, "--port", str(free_port()))
    assert told["session"] == "demo"
    assert told["answer"].strip()
    again = sluice("up", "--name", slurm_cluster.name)
    assert again["answer"].strip()
    assert [session["name"] for session in sluice("list")] == ["demo"]
    assert sluice("chat", "demo", "What is a job?")["answer"].strip()
    assert sluice("down")["ended"] == ["gateway"]
    assert slurm_cluster.alive
