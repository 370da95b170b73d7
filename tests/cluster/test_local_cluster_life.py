"""The life of a local cluster: up, up again, two at once, killed at every moment, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cluster import Cluster, all_names, end
from gateway.cluster.spec import Net
from gateway.errors import ClusterError, ClusterNotFound, Conflict

pytestmark = pytest.mark.cluster

# Brings a cluster up and kills itself, unforeseen by anything in it, when the given number of reports was made.
UP_AND_DIE = """
import os, signal, sys
from gateway.cluster import Cluster
left = int(sys.argv[2])
def progress(stage, detail):
    global left
    print(stage, detail, flush=True)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
Cluster.up(sys.argv[1], 1, progress=progress)
"""


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory of this test's own; what is left in it is ended."""
    if os.geteuid() != 0:
        pytest.skip("a real Slurm cluster needs root")
    monkeypatch.setenv("SLUICE_CLUSTER_DIR", str(tmp_path))
    yield tmp_path
    for name in all_names():
        end(name)


def leftovers(folder: Path, nets: list[Net]) -> list[str]:
    """What is still there of the clusters whose state was in this folder, by other means than the product's own."""
    found = [str(path) for path in folder.rglob("*")]
    for process in (path for path in Path("/proc").iterdir() if path.name.isdigit()):
        for name in ("environ", "mountinfo", "cmdline"):
            try:
                text = (process / name).read_bytes()
            except OSError:
                continue
            if str(folder).encode() in text and int(process.name) != os.getpid():
                found.append(f"process {process.name}: {name}")
    links = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    found += [f"bridge {net.bridge}" for net in nets if net.bridge_mac in links]
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    return found + ["a mount"] * (str(folder) in mounts)


def etc() -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in Path("/etc").rglob("*")}


def net_of(folder: Path, name: str) -> list[Net]:
    """From the record on disk, if it came that far."""
    record = folder / name / "cluster.json"
    return [Net(**json.loads(record.read_text())["net"])] if record.exists() else []


def up_and_die(name: str, reports: int) -> list[str]:
    """Run `up` until its n-th report, where it is killed; returns the reports. All of them: it came up."""
    done = subprocess.run(
        [sys.executable, "-c", UP_AND_DIE, name, str(reports)], check=False, capture_output=True, text=True
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.stdout.splitlines()


def test_up_is_up_twice_and_down_leaves_nothing(clusters: Path) -> None:
    before = etc()
    first = Cluster.up("one", 1)
    assert [node["state"] for node in first.nodes()] == ["idle"]
    again: list[str] = []
    assert Cluster.up("one", progress=lambda stage, _: again.append(stage)).record == first.record
    assert again == ["already up"]
    with pytest.raises(Conflict, match="with other settings: --nodes 1"):
        Cluster.up("one", 2)
    assert first.alive
    nets = net_of(clusters, "one")
    first.down()
    assert leftovers(clusters, nets) == []
    assert etc() == before
    with pytest.raises(ClusterNotFound):
        Cluster.load("one")


def test_two_at_once_do_not_touch_each_other(clusters: Path) -> None:
    one, two = Cluster.up("one", 1), Cluster.up("two", 1, gpus="none")
    nets = [one.record.net, two.record.net]
    assert nets[0].index != nets[1].index
    one.exec("login", ["sbatch", "--hold", "--wrap", "true"], user="alice")
    assert two.exec("login", ["squeue", "-h"]).stdout == ""
    one.exec("login", ["touch", "mine"], user="alice")
    assert not (two.home / "alice/mine").exists()
    assert all_names() == ["one", "two"]
    one.down()
    assert [node["state"] for node in two.nodes()] == ["idle"]
    assert leftovers(clusters / "one", nets[:1]) == []
    two.down()
    assert leftovers(clusters, nets) == []


def test_killed_at_every_moment_down_finds_everything(clusters: Path) -> None:
    reports = 0
    while True:
        reports += 1
        said = up_and_die("doomed", reports)
        nets = net_of(clusters, "doomed")
        end("doomed")
        assert leftovers(clusters, nets) == [], f"killed after {said[-1]}"
        if len(said) < reports:
            break
    assert reports > 8  # it was killed while keys, network, hosts and Slurm came up


@pytest.mark.usefixtures("clusters")
def test_up_repairs_what_a_killed_up_left() -> None:
    said = up_and_die("doomed", 4)
    assert len(said) == 4
    repaired = Cluster.up("doomed", 1)
    assert [node["state"] for node in repaired.nodes()] == ["idle"]
    (repaired.home / "alice/kept").write_text("yes")
    repaired.kill_host("ctl")
    again = Cluster.up("doomed")
    assert again.record.spec == repaired.record.spec
    assert (again.home / "alice/kept").read_text() == "yes"
    assert [node["state"] for node in again.nodes()] == ["idle"]


def test_images_of_a_directory_that_stays(clusters: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    images = tmp_path_factory.mktemp("images") / "sif"
    images.parent.chmod(0o755)
    cluster = Cluster.up("one", 1, images=str(images))
    cluster.exec("node1", ["touch", "/home/images/kept.sif"], user="alice")
    cluster.down()
    assert (images / "kept.sif").stat().st_uid == 2001
    assert leftovers(clusters, []) == []


def test_a_node_fails_and_comes_back(clusters: Path) -> None:
    cluster = Cluster.up("one", 1)
    cluster.kill_host("node1")
    assert not cluster.alive
    assert not cluster.running("node1")
    with pytest.raises(ClusterError, match="is not running"):
        cluster.exec("node1", ["true"])
    cluster = cluster.start_host("node1")
    assert cluster.exec("node1", ["hostname"]).stdout == "node1\n"
    assert clusters.exists()


def test_a_killed_build_leaves_no_process_and_the_next_one_cleans_up(
    clusters: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SLUICE_CLUSTER_CACHE", str(cache))
    for _ in range(2):
        assert up_and_die("doomed", 3)[0].startswith("base system")
        assert len(list(cache.glob("rootfs/.build-*"))) == 1
        end("doomed")
        leftover = [line for line in leftovers(cache, []) if not line.startswith(str(cache))]
        assert leftover == []
    assert leftovers(clusters, []) == []


@pytest.mark.usefixtures("clusters")
def test_without_root_it_says_so_and_does_nothing() -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(ClusterError, match="needs root"):
            Cluster.up("one", 1)
    finally:
        os.seteuid(0)
    assert all_names() == []


@pytest.mark.acceptance
@pytest.mark.usefixtures("clusters")
def test_the_stable_release_with_its_older_slurm() -> None:
    cluster = Cluster.up("stable", 1, release="trixie")
    assert " 24.11." in cluster.exec("login", ["sinfo", "--version"]).stdout
    done = cluster.exec("login", ["sbatch", "--wait", "-p", "gpu", "--gres=gpu:a100:1", "--wrap", "true"], user="bob")
    assert "Submitted batch job 1" in done.stdout


@pytest.mark.pyslurm
def test_pyslurm_is_put_on_a_cluster_that_is_up_and_is_there_after_the_host_started_anew(clusters: Path) -> None:
    del clusters
    there = ["python3", "-c", "import pyslurm; print(pyslurm.Partitions.load()['cpu'].state)"]
    made = Cluster.up("extra", nodes=1)
    assert made.exec("login", there, user="alice", check=False).returncode != 0
    again = Cluster.up("extra", extras="pyslurm")
    assert again.record.spec.extras == "pyslurm"
    assert again.exec("login", there, user="alice").stdout == "UP\n"
    assert Cluster.up("extra").record.spec.extras == "pyslurm"
    again.kill_host("login")
    assert again.start_host("login").exec("login", there, user="alice").stdout == "UP\n"
