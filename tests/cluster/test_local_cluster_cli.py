"""`sluice cluster` as it is typed."""

import json
import subprocess
import sys
import tomllib

import pytest

from gateway.cluster import Cluster

pytestmark = pytest.mark.cluster


def sluice(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli.main", "cluster", *argv],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_list_and_status(slurm_cluster: Cluster) -> None:
    listed = {each["name"]: each for each in json.loads(sluice("list", "--json").stdout)}
    assert listed[slurm_cluster.name]["phase"] == "up"
    assert slurm_cluster.name in sluice("list").stdout
    status = sluice("status", "--name", slurm_cluster.name, "--json")
    assert status.returncode == 0
    seen = json.loads(status.stdout)
    assert seen["rest_url"] == slurm_cluster.rest_url
    assert {host["name"]: host["address"] for host in seen["hosts"]} == slurm_cluster.addresses
    assert all(host["running"] for host in seen["hosts"])
    assert {node["name"] for node in seen["slurm_nodes"]} == {"node1", "node2"}
    assert "gpu:a100:4" in sluice("status", "--name", slurm_cluster.name).stdout


def test_up_is_a_no_op_and_says_what_is_there(slurm_cluster: Cluster) -> None:
    done = sluice("up", "--name", slurm_cluster.name, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["phase"] == "up"
    assert "already up" in done.stderr
    other = sluice("up", "--name", slurm_cluster.name, "--nodes", "9")
    assert other.returncode == 7
    assert "--nodes 2" in other.stderr


def test_exec_gives_the_commands_output_and_exit_code(slurm_cluster: Cluster) -> None:
    name = ["--name", slurm_cluster.name]
    assert sluice("exec", *name, "node1", "--", "hostname").stdout == "node1\n"
    assert sluice("exec", *name, "login", "--user", "alice", "--", "sh", "-c", "id -un; exit 4").returncode == 4
    unknown = sluice("exec", *name, "node99", "--", "true")
    assert unknown.returncode == 3
    assert "one of: ctl, node1, node2, login, build" in unknown.stderr


def test_ssh(slurm_cluster: Cluster) -> None:
    done = sluice("ssh", "--name", slurm_cluster.name, "bob", "--", "sh", "-c", "id -un; exit 5")
    assert (done.stdout, done.returncode) == ("bob\n", 5)
    assert sluice("ssh", "--name", slurm_cluster.name, "--host", "build", "bob", "hostname").stdout == "build\n"
    assert list(slurm_cluster.state.glob(".ssh-*")) == []


def test_env_is_what_the_gateway_reads(slurm_cluster: Cluster) -> None:
    settings = tomllib.loads(sluice("env", "--name", slurm_cluster.name).stdout)
    assert settings["clusters"][slurm_cluster.name]["rest_url"] == slurm_cluster.rest_url


def test_logs(slurm_cluster: Cluster) -> None:
    shown = sluice("logs", "--name", slurm_cluster.name, "ctl", "--service", "slurmctld", "-n", "2")
    assert "slurmctld.log <==" in shown.stdout
    assert sluice("logs", "--name", slurm_cluster.name, "ctl", "--service", "nosuch").returncode == 3


def test_a_cluster_that_is_not_there() -> None:
    done = sluice("status", "--name", "never-made")
    assert done.returncode == 3
    assert "there is no cluster 'never-made'" in done.stderr
    assert sluice("down", "--name", "never-made").returncode == 0
    assert sluice("up", "--name", "Never").returncode == 2
