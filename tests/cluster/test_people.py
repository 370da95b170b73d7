"""Two projects on a real cluster: whose job runs as whom, who reaches what, and how people come and go."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.model.boarding import BoardRequest, LeaveRequest
from gateway.model.project import NewProject, ProjectRequest, Share
from tests.product import Product
from tests.waiting import until

pytestmark = pytest.mark.cluster

WITHIN = 90
SLEEP = ("-p", "command=sleep 600")


@pytest.fixture(scope="module")
def hands(product: Product) -> Iterator[dict[str, Product]]:
    """The command line in the hands of two accounts that run as alice and as bob."""
    built = product.sluice("image", "build", "base", within=600)
    assert built.returncode == 0, built.stderr
    cluster = product.cluster.name
    found = {}
    for who, project, account in (("alice", "physics", "research"), ("bob", "chemistry", "teaching")):
        product.json(
            "project", "create", project, "--account", f"{cluster}={account}", "--partitions", f"{cluster}=cpu"
        )
        product.json("user", "service", f"{who}-bot", "--project", project, "--unix", f"{cluster}={who}")
        made = product.json("token", "create", "test", "--for", f"{who}-bot")
        found[who] = product.as_(made["token"])
    yield found
    for session in product.json("list"):
        product.sluice("stop", session["id"], "--wait")


def slurm(product: Product, *argv: str, user: str = "oper") -> str:
    return product.cluster.exec("login", list(argv), user=user).stdout


def until_running(hand: Product, name: str) -> dict[str, Any]:
    until(lambda: hand.json("show", name)["phase"] in {"running", "ready"}, what=f"{name} runs")
    return dict(hand.json("show", name))


def test_a_job_runs_as_the_own_unix_user_under_the_account_of_the_project(hands: dict[str, Product]) -> None:
    for who, account in (("alice", "research"), ("bob", "teaching")):
        started = hands[who].sluice("launch", "shell-command", "--name", f"{who}-one", "--no-wait", *SLEEP)
        assert started.returncode == 0, started.stderr
        job = until_running(hands[who], f"{who}-one")["job"]["job_id"]
        assert slurm(hands[who], "squeue", "-h", "-j", str(job), "-o", "%u|%a|%P").strip() == f"{who}|{account}|cpu"


def test_nobody_reaches_the_work_of_another_project(hands: dict[str, Product]) -> None:
    session = hands["alice"].json("show", "alice-one")["id"]
    bob = hands["bob"]
    assert session not in {one["id"] for one in bob.json("list", "--all")}
    for words in (("show", session), ("logs", session), ("stop", session), ("events", session), ("delete", session)):
        done = bob.sluice(*words)
        assert (done.returncode, "there is no session" in done.stderr) == (3, True), (words, done.stderr)
    assert hands["alice"].json("show", session)["phase"] == "running"
    other = bob.sluice("launch", "shell-command", "--project", "physics", *SLEEP)
    assert (other.returncode, "there is no project" in other.stderr) == (3, True)
    account = bob.sluice("launch", "shell-command", "--account", "research", *SLEEP)
    assert account.returncode in {2, 4}, account.stderr
    partition = bob.sluice("launch", "shell-command", "--partition", "gpu", *SLEEP)
    assert (partition.returncode, "partition gpu" in partition.stderr) == (4, True)


@pytest.mark.parametrize("unix", ["root", "slurm", "games", "nosuchuser"])
def test_nobody_is_given_a_system_user(product: Product, hands: dict[str, Product], unix: str) -> None:
    del hands
    done = product.sluice("user", "add", "eve", "--project", "physics", "--unix", f"{product.cluster.name}={unix}")
    assert done.returncode == 4, done.stderr
    assert product.sluice("user", "show", "eve").returncode == 3


def held(product: Product, user: str) -> set[str]:
    lines = slurm(product, "sacctmgr", "-n", "-P", "show", "associations", f"user={user}", "format=account")
    return set(lines.split())


@pytest.fixture
def carol(product: Product) -> Iterator[str]:
    """A Unix user on every host whom Slurm does not know yet."""
    hosts = ("ctl", "login", "node1", "node2")
    for host in hosts:
        product.cluster.exec(
            host, ["useradd", "-u", "2100", "-d", "/home/carol", "-p", "*", "-s", "/bin/bash", "carol"]
        )
    product.cluster.exec("login", ["install", "-d", "-o", "carol", "-g", "carol", "-m", "755", "/home/carol"])
    yield "carol"
    for host in hosts:
        product.cluster.exec(host, ["userdel", "-f", "carol"])
    product.cluster.exec("login", ["rm", "-rf", "/home/carol"])


def test_somebody_is_taken_on_and_seen_off(product: Product, hands: dict[str, Product], carol: str) -> None:
    del hands
    asked = ("user", "add", carol, "--project", "physics")
    dry = product.json(*asked, "--dry-run")
    assert {step["outcome"] for step in dry["steps"]} == {"would"}
    assert product.sluice("user", "show", carol).returncode == 3
    assert held(product, carol) == set()
    first = product.json(*asked)
    assert first["complete"], first
    assert held(product, carol) == {"research"}
    sessions = product.cluster.home / carol / ".sluice" / "sessions"
    assert (sessions.is_dir(), sessions.stat().st_uid, sessions.stat().st_mode & 0o777) == (True, 2100, 0o700)
    second = product.json(*asked)
    assert {step["outcome"] for step in second["steps"]} == {"already"}
    both = product.json("user", "add", carol, "--project", "chemistry", "--role", "viewer")
    assert both["complete"], both
    assert held(product, carol) == {"research", "teaching"}
    (sessions / "left.txt").write_text("kept\n")
    dry = product.json("user", "remove", carol, "--dry-run")
    assert not dry["complete"]
    assert held(product, carol) == {"research", "teaching"}
    gone = product.json("user", "remove", carol)
    assert gone["complete"], gone
    assert held(product, carol) == set()
    packed = sessions.with_name("sessions.tar.gz")
    assert not sessions.exists()
    assert (packed.stat().st_uid, packed.stat().st_mode & 0o777) == (2100, 0o600)
    assert product.json("user", "show", carol)["state"] == "removed"
    again = product.json("user", "remove", carol)
    assert {step["outcome"] for step in again["steps"]} == {"already"}


def test_who_comes_back_has_their_unix_user_again_and_both_archives(
    product: Product, hands: dict[str, Product], carol: str
) -> None:
    """By the SDK, in this process. Between the two stays the project gets a QOS more."""
    del hands
    cluster = product.cluster.name
    with product.client() as sluice:
        sluice.projects.create(NewProject(name="visits", shares=(Share(cluster=cluster, account="research"),)))
        asked = BoardRequest(project="visits", unix={cluster: carol})
        for name in ("visitor-1", "visitor-2"):
            assert sluice.users.take_on(name, asked).complete
            qos = ("normal",) if name == "visitor-1" else ("normal", "preemptible")
            share = Share(cluster=cluster, account="research", qos=qos)
            sluice.projects.change("visits", ProjectRequest(shares=(share,)))
            outcomes = {step.outcome for step in sluice.users.take_on(name, asked).steps}
            assert outcomes == ({"already"} if name == "visitor-1" else {"already", "done"})
            told = slurm(product, "sacctmgr", "-n", "-P", "show", "associations", f"user={carol}", "format=qos")
            assert set(told.strip().split(",")) == set(qos)
            assert sluice.users.see_off(name, LeaveRequest()).complete
        assert {step.outcome for step in sluice.users.see_off("visitor-1", LeaveRequest()).steps} == {"already"}
    packed = {path.name: path.stat().st_mode & 0o777 for path in (product.cluster.home / carol / ".sluice").iterdir()}
    assert packed == {"sessions.tar.gz": 0o600, "sessions.tar.gz.~1~": 0o600}


def test_who_is_seen_off_loses_tokens_and_jobs_and_the_record_stays(
    product: Product, hands: dict[str, Product]
) -> None:
    session = hands["alice"].json("show", "alice-one")["id"]
    first = product.sluice("user", "remove", "alice-bot")
    assert (first.returncode, "Run it again" in first.stderr) == (7, True), first.stderr
    assert hands["alice"].sluice("list").returncode == 4
    until(lambda: product.json("show", session)["ended"], what="the session ended")
    assert slurm(product, "squeue", "-h", "-u", "alice", "-n", "x").strip() == ""
    again = ("user", "remove", "alice-bot", "--no-archive")  # until accounting has heard of the job's end
    until(lambda: product.sluice(*again), lambda done: done.returncode == 0, what="all of it is done")
    assert "research" not in held(product, "alice")
    assert product.json("show", session)["owner"] == "alice-bot"
    slurm(product, "sacctmgr", "-i", "add", "user", "alice", "account=research", "qos=normal,preemptible")
