"""A named secret on a real cluster: the program has it, and nothing that anybody could look at does."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.product import Product
from tests.waiting import until

pytestmark = pytest.mark.cluster

VALUE = "hf_ThisMustNotBeSeen7391"
WITHIN = 120
RECIPE = """
name: {name}
version: "1"
kind: batch
image: base
command: [/bin/bash, -c, 'printf %s "$HF_TOKEN" | sha256sum; sleep 600']
secrets: {{HF_TOKEN: {{secret: hub}}}}
resources: {{cpus: 1, memory: 100M, time: 30m}}
lifecycle: {{requeue: true}}
"""


def slurm(product: Product, *argv: str, host: str = "login", user: str = "root") -> str:
    return product.cluster.exec(host, list(argv), user=user).stdout


@pytest.fixture(scope="module")
def session(product: Product, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Running, with a secret that came from a file."""
    built = product.sluice("image", "build", "base", within=600)
    assert built.returncode == 0, built.stderr
    folder = Path(product.environment["SLUICE_CONFIG"]).parent / "recipes"
    (folder / "named.yaml").write_text(RECIPE.format(name="named"))
    missing = product.sluice("launch", "named", "--no-wait")
    assert (missing.returncode, "sluice secret set hub" in missing.stderr) == (3, True)
    token = tmp_path_factory.mktemp("secret") / "token"
    token.write_text(f"{VALUE}\n")
    assert product.sluice("secret", "set", "hub", "--from-file", str(token)).returncode == 0
    token.unlink()
    started = product.sluice("launch", "named", "--name", "named", "--no-wait")
    assert started.returncode == 0, started.stderr
    until(lambda: digests(product, "named") == 1, what="the program has told the digest of its secret")
    return dict(product.json("show", "named"))


def digests(product: Product, name: str) -> int:
    """How often the program said that it has the right value, which it does without saying the value."""
    expected = slurm(product, "bash", "-c", f"printf %s {VALUE} | sha256sum").split()[0]
    return product.sluice("logs", name).stdout.count(expected)


def test_slurm_knows_nothing_of_it(product: Product, session: dict[str, Any]) -> None:
    job = str(session["job"]["job_id"])
    told = [
        slurm(product, "scontrol", "show", "job", "-d", "-o", job),
        slurm(product, "scontrol", "write", "batch_script", job, "-"),
        slurm(product, "sacct", "-j", job, "-P", "-o", "ALL"),
        slurm(product, "sacct", "-j", job, "--batch-script"),
        slurm(product, "sacct", "-j", job, "--env-vars"),
        slurm(product, "squeue", "-j", job, "-O", "ALL"),
        product.sluice("show", "named", "--json").stdout,
        product.sluice("events", "named", "--json").stdout,
    ]
    assert ("sluice" in told[1].lower(), "PATH=" in told[4]) == (True, True), "scripts and environments are kept"
    assert VALUE not in "".join(told)


def test_no_process_on_the_node_says_it_to_others(product: Product, session: dict[str, Any]) -> None:
    node = session["job"]["nodes"]
    seen = slurm(product, "bash", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '", host=node)
    assert "sha256sum" in seen or "sleep 600" in seen
    assert VALUE not in seen
    script = "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c HF_TOKEN || true"
    assert slurm(product, "bash", "-c", script, host=node, user="bob").strip() == "0"


def content(path: Path) -> bytes:
    """Of a file that may go at any time: a database's journal does."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def test_no_file_of_slurm_of_the_gateway_or_of_others_holds_it(product: Product, session: dict[str, Any]) -> None:
    """All that Slurm and the machines write; the gateway's state folder with its database; every log."""
    del session
    for host in ("ctl", "login", "node1", "node2"):
        places = "/var/log /var/spool /var/lib/slurm /var/lib/mysql /tmp /etc/slurm"
        found = slurm(
            product, "bash", "-c", f"grep -rlaF --devices=skip {VALUE} {places} 2>/dev/null || true", host=host
        )
        assert found == ""
    state = Path(product.environment["SLUICE_CONFIG"]).parent
    files = [path for path in state.rglob("*") if path.is_file()]
    assert any(path.name == "sluice.db" for path in files)
    assert [str(path) for path in files if VALUE.encode() in content(path)] == []
    assert VALUE not in product.log.read_text()


def test_in_the_home_it_is_in_the_staged_file_alone(product: Product, session: dict[str, Any]) -> None:
    """The job may be started again, so its file stays, readable by its owner alone."""
    home = "/home/alice/.sluice/sessions"
    found = slurm(product, "bash", "-c", f"grep -rlaF {VALUE} {home} || true").split()
    assert found == [f"{home}/{session['id']}/secrets.json"]
    assert slurm(product, "stat", "-c", "%a %U", found[0]).split() == ["600", session["unix_user"]]


def test_a_requeued_job_without_its_file_is_given_it_by_the_control_channel(
    product: Product, session: dict[str, Any]
) -> None:
    job, folder = str(session["job"]["job_id"]), f"/home/alice/.sluice/sessions/{session['id']}"
    slurm(product, "rm", f"{folder}/secrets.json")
    slurm(product, "scontrol", "requeue", job, user="alice")

    def begins() -> bool:  # it would wait two minutes
        asked = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
        waits = slurm(product, "squeue", "-h", "-o", "%T", "-j", job).strip() == "PENDING"
        return waits and product.cluster.exec("ctl", asked, check=False).returncode == 0

    until(begins, what="the job is in the queue again")

    def pushed() -> bool:
        told = product.json("show", "named")["conditions"].get("SecretsDelivered", {})
        return "Handed to the agent" in told.get("message", "") and digests(product, "named") == 2

    until(pushed, what="the second run has it")
    comment = slurm(product, "squeue", "-h", "-j", job, "-o", "%k")
    assert (" tcp=" in comment, VALUE in comment) == (True, False)
    assert VALUE not in json.dumps(product.json("show", "named")) + product.log.read_text()


def test_nothing_is_left_when_the_session_has_ended(product: Product, session: dict[str, Any]) -> None:
    product.sluice("stop", "named", "--wait")
    home = "/home/alice/.sluice/sessions"

    def gone() -> bool:
        return slurm(product, "bash", "-c", f"grep -rlaF {VALUE} {home} || true") == ""

    until(gone, what="no file in the session's directory holds it")
    assert product.json("show", session["id"])["ended"]
