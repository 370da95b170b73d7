"""People on another host of the cluster, known by MUNGE: real credentials of a real daemon, decoded on another host."""

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gateway.cluster import Cluster
from tests.ports import free_port
from tests.product import Product, serving

pytestmark = pytest.mark.cluster

PURPOSE = "sluice"


@dataclass
class Domain:
    """A gateway that asks the MUNGE of the controller's host, and people on the login host."""

    product: Product
    folder: Path
    uid: int
    audience: str

    @property
    def url(self) -> str:
        return f"http://{self.audience}"

    def credential(self, user: str, *options: str, audience: str | None = None, purpose: str = PURPOSE) -> str:
        """As a process of the user's on the login host makes one."""
        text = json.dumps({"purpose": purpose, "audience": audience or self.audience})
        argv = ["munge", "--string", text, *(options or (f"--restrict-uid={self.uid}", "--ttl=60"))]
        return self.product.cluster.exec("login", argv, user=user).stdout.strip()

    def show(self, credential: str) -> httpx.Response:
        return httpx.post(f"{self.url}/api/v1/auth/munge", json={"credential": credential}, timeout=60)

    def hand(self, user: str) -> Product:
        """The command line where `munge` is the login host's, run by this user; with nothing else to show."""
        programs = self.folder / user
        programs.mkdir(exist_ok=True)
        argv = self.product.cluster.exec_argv("login", ["munge"], user=user)
        (programs / "munge").write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
        (programs / "munge").chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")}
        environment = {**kept, "PATH": f"{programs}:{os.environ['PATH']}", "SLUICE_URL": self.url}
        environment["XDG_CONFIG_HOME"] = str(programs)
        return Product(self.product.cluster, self.url, environment, self.product.log, self.product.pid)


@pytest.fixture(scope="module")
def domain(slurm_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Domain]:
    folder, port = tmp_path_factory.mktemp("munge"), free_port()
    audience = f"127.1:{port}"  # a name of this machine for which no token file is read
    uid = int(slurm_cluster.exec("ctl", ["id", "-u"], user="oper").stdout)
    unmunge = slurm_cluster.exec_argv("ctl", ["unmunge"], user="oper")
    more = (
        f'[identity]\nsocket_unknown = "admit"\n[identity.munge]\nhosts = ["{audience}"]\nuid = {uid}\n'
        f"unmunge = {json.dumps(unmunge)}\n"
    )
    with serving(slurm_cluster, folder, port, more) as product:
        yield Domain(product, folder, uid, audience)


def test_a_person_on_another_host_needs_no_token(domain: Domain) -> None:
    for user in ("alice", "bob"):
        me = domain.hand(user).json("whoami")
        assert (me["name"], me["unix"], me["token"]) == (user, {domain.product.cluster.name: user}, None)
        assert not (domain.folder / user / "sluice").exists(), "nothing is kept"
    assert domain.hand("alice").json("list") == []
    known = {view["name"]: view["state"] for view in domain.product.json("user", "list")}
    assert (known["alice"], known["bob"]) == ("active", "active")
    switched_off = domain.product.sluice("user", "set", "bob", "--disable")
    assert switched_off.returncode == 0, switched_off.stderr
    assert domain.hand("bob").sluice("whoami").returncode == 4
    assert domain.hand("root").sluice("whoami").returncode == 4
    rows = [row for row in domain.product.json("audit", "list", "--action", "sign.in") if row["decision"] == "allow"]
    assert {(row["who"], row["object"], row["origin"]) for row in rows} == {
        (user, user, "socket") for user in ("alice", "bob")
    }
    states = [row["details"]["state"] for row in rows if row["who"] == "bob"]  # the newest first
    assert (states[0], set(states[1:])) == ("disabled", {"active"})
    assert all((row["user_id"], row["details"]["by"]) > ("", "mung") for row in rows)


def test_a_credential_is_good_once(domain: Domain) -> None:
    credential = domain.credential("alice")
    first = domain.show(credential)
    assert first.status_code == 200, first.text
    for _ in range(2):
        again = domain.show(credential)
        assert (again.status_code, "Replayed credential" in again.json()["detail"]) == (401, True)
    token = first.json()["token"]
    auth = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{domain.url}/api/v1/me", headers=auth, timeout=60).json()["name"] == "alice"
    text, _, mark = token.rpartition(".")
    for forged in (f"{text}x.{mark}", f"{text}.{'0' * 64}", "munge.", "munge.x.y"):
        auth = {"Authorization": f"Bearer {forged}"}
        assert httpx.get(f"{domain.url}/api/v1/me", headers=auth, timeout=60).status_code == 401


def test_a_credential_for_somebody_else_lets_nobody_in(domain: Domain) -> None:
    other = domain.uid + 1
    for credential, status, says in (
        (domain.credential("alice", audience="other.example.org:8000"), 401, "not for this gateway"),
        (domain.credential("alice", purpose="something else"), 401, "not for this gateway"),
        (domain.credential("alice", "--ttl=60"), 401, "not for this gateway alone"),
        (domain.credential("alice", f"--restrict-uid={other}"), 401, "Unauthorized credential"),
        (domain.credential("root"), 403, "nothing runs as root"),
        ("MUNGE:AwQDAAB" + "x" * 60 + ":", 401, "does not vouch"),
        ("something", 401, "no MUNGE credential"),
    ):
        told = domain.show(credential)
        assert (told.status_code, says in told.json()["detail"]) == (status, True), told.text
