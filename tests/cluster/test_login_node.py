"""Sluice on the cluster's login host, for who runs it: installed there, over libslurm, from launch to stop."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cluster import Cluster
from gateway.cluster.files import remove_tree
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.pyslurm, pytest.mark.timeout(600)]

HERE = Path(__file__).parents[2]
FOLDER = "/home/alice/login-node"
SLUICE = f"{FOLDER}/venv/bin/sluice"
PORT = 8123

SETTINGS = f"""
state_dir = "{FOLDER}/state"
recipes.folders = ["{FOLDER}/recipes"]
serve.all_port = {PORT}
reconcile.poll_seconds = 0.5
[clusters.here]
backend = "pyslurm"
image_dir = "{FOLDER}/images"
session_root = "{FOLDER}/sessions"
"""
RECIPE = """
name: files
version: "1"
kind: service
image: tiny
script: |
  echo it works > /tmp/index.html
  exec httpd -f -p 127.0.0.1:$SLUICE_PORT -h /tmp
resources: {memory: 100M, time: 10m}
service:
  listen: port
  protocol: http
  probe: {kind: http, path: /index.html}
"""
IMAGE = f"""
    set -e
    cd {FOLDER}
    mkdir -p images tree/bin tree/proc tree/sys tree/dev tree/etc tree/tmp tree/root tree/home tree/var/tmp
    cp "$(command -v busybox)" tree/bin/
    for applet in sh echo cat httpd; do ln -s busybox tree/bin/$applet; done
    apptainer --quiet build tiny.sif tree
"""
INSTALL = f"""
    set -e
    python3 -m venv --system-site-packages {FOLDER}/venv
    {FOLDER}/venv/bin/python -m pip install -q --no-cache-dir '{FOLDER}/source[server,ssh]'
"""


class Login:
    """Commands of alice's on the login host."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def argv(self, *words: str, **environment: str) -> list[str]:
        told = {"SLUICE_CONFIG": f"{FOLDER}/sluice.toml", **environment}
        command = ["env", *(f"{name}={value}" for name, value in told.items()), SLUICE, *words]
        return self.cluster.exec_argv("login", command, user="alice")

    def sluice(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words, **environment), capture_output=True, text=True, check=False, timeout=200
        )

    def json(self, *words: str) -> Any:
        done = self.sluice(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def login(slurm_cluster: Cluster) -> Iterator[Login]:
    """Sluice with its extras, and an image, in alice's home; pyslurm is the host's."""
    cluster = Cluster.up(slurm_cluster.name, extras="pyslurm")
    place = cluster.home / "alice" / "login-node"
    (place / "recipes").mkdir(parents=True)
    (place / "recipes/files.yaml").write_text(RECIPE)
    (place / "sluice.toml").write_text(SETTINGS)
    source = place / "source"
    for name in ("gateway", "monitoring", "logs", "recipes", "sbatch_templates", "apptainer", "policies"):
        shutil.copytree(HERE / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(HERE / name, source / name)
    cluster.exec("login", ["chown", "-R", "alice:alice", FOLDER])
    try:
        cluster.exec("login", ["sh", "-c", IMAGE], user="alice")
        cluster.exec("build", ["sh", "-c", INSTALL], user="alice")
        yield Login(cluster)
    finally:
        remove_tree(place)


@pytest.fixture(scope="module")
def gateway(login: Login) -> Iterator[Login]:
    log = login.cluster.home / "alice/login-node/gateway.log"
    with log.open("wb") as out:
        process = subprocess.Popen(login.argv("serve", "all"), stdout=out, stderr=out)
    try:
        until(lambda: process.poll() is not None or login.sluice("list").returncode == 0, what="the gateway answers")
        assert process.poll() is None, log.read_text()
        yield login
        assert "libslurm started" in log.read_text()
    finally:
        login.cluster.exec("login", ["pkill", "-TERM", "-u", "alice", "-f", "serve all"], check=False)
        assert process.wait(120) == 0, log.read_text()[-3000:]


def test_doctor_finds_it_good(login: Login) -> None:
    told = login.json("doctor")
    found = {finding["check"]: finding for finding in told["findings"]}
    assert told["problems"] == 0, found
    assert "pyslurm" in found["versions"]["seen"]
    assert found["slurm"]["verdict"] == found["association"]["verdict"] == found["identity"]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("broken", "check", "words"),
    [
        ({"SLUICE_CLUSTERS__HERE__PYSLURM_PYTHON": "/nowhere/python"}, "slurm", "/nowhere/python"),
        ({"SLURM_CONF": "/nowhere/slurm.conf"}, "slurm", "/nowhere/slurm.conf"),
        ({"SLUICE_CLUSTERS__HERE__UNIX_USER": "bob"}, "settings", "libslurm acts as alice"),
    ],
    ids=["python", "slurm.conf", "user"],
)
def test_doctor_says_what_is_broken(login: Login, broken: dict[str, str], check: str, words: str) -> None:
    done = login.sluice("doctor", "--json", **broken)
    assert done.returncode == 1, done.stderr
    found = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found[check]["verdict"] == "problem"
    assert words in found[check]["seen"]
    assert found[check]["advice"]


def test_from_launch_to_stop(gateway: Login) -> None:
    added = gateway.sluice("image", "add", "tiny", f"{FOLDER}/tiny.sif")
    assert added.returncode == 0, added.stderr
    done = gateway.sluice("launch", "files", "--name", "mine", "--wait", "--timeout", "120")
    assert done.returncode == 0, done.stderr + gateway.sluice("logs", "mine").stdout
    session = gateway.json("show", "mine")
    assert (session["phase"], session["unix_user"]) == ("ready", "alice")
    token = gateway.cluster.exec("login", ["cat", f"{FOLDER}/state/token"], user="alice").stdout.strip()
    address = f"http://127.0.0.1:{PORT}/s/{session['id']}/index.html"
    answer = gateway.cluster.exec("login", ["curl", "-sS", "-H", f"Authorization: Bearer {token}", address])
    assert answer.stdout == "it works\n"
    done = gateway.sluice("stop", "mine", "--wait")
    assert done.returncode == 0, done.stderr
    assert gateway.json("show", "mine")["phase"] == "stopped"
