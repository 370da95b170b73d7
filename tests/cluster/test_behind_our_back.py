"""What others do to our jobs while nobody asks us: each session follows, says so, and ends only when its job has."""

import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.product import Product
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("images")]

Session = dict[str, Any]


def shown(product: Product, name: str) -> Session:
    found: Session = product.json("show", name)
    return found


def until_shown(product: Product, name: str, reached: Callable[[Session], bool], seconds: float = 90) -> Session:
    found: Session = until(lambda: shown(product, name), reached, within=seconds)
    return found


def phase(word: str) -> Callable[[Session], bool]:
    return lambda session: session["phase"] == word


def slurm(product: Product, *argv: str, user: str | None = None, check: bool = True) -> str:
    """A command on the login node as a user, or on the controller as root."""
    return product.cluster.exec("login" if user else "ctl", list(argv), user=user, check=check).stdout.strip()


def job(session: Session) -> str:
    return str(session["job"]["job_id"])


def launch(product: Product, name: str, *words: str, recipe: str = "requeued", command: str = "sleep 600") -> Session:
    """A session whose job runs."""
    given = ("-p", f"command={command}") if recipe in {"requeued", "shell-command"} else ()
    done = product.sluice("launch", recipe, *given, "--name", name, *words, "--no-wait")
    assert done.returncode == 0, done.stderr
    return until_shown(product, name, lambda session: session["phase"] in {"running", "ready"})


def hurry(product: Product, session: Session) -> None:
    """A requeued job would wait two minutes before it may start again."""

    def begins() -> bool:
        asked = ("scontrol", "update", f"JobId={job(session)}", "StartTime=now")
        return product.cluster.exec("ctl", list(asked), check=False).returncode == 0

    state = ("squeue", "-h", "-t", "all", "-o", "%T", "-j", job(session))
    until(lambda: slurm(product, *state), lambda text: text in {"PENDING", "RUNNING"})
    until(begins, bool)


def status(product: Product, session: Session) -> int:
    """Of its service's answer; 0 if there is none."""
    headers = {"Authorization": f"Bearer {product.environment['SLUICE_TOKEN']}"}
    try:
        return httpx.get(f"{product.url}/s/{session['id']}/health", headers=headers, timeout=60).status_code
    except httpx.TimeoutException:
        return 0


def answers(product: Product, session: Session) -> bool:
    return status(product, session) == 200


def told(product: Product, name: str, kind: str) -> list[dict[str, Any]]:
    with product.client() as client:
        return [dict(event.data) for event in client.sessions.events(name) if event.type == kind]


@pytest.fixture(autouse=True)
def _nothing_left(product: Product) -> Iterator[None]:
    """Whatever a test leaves is stopped: the cluster is small."""
    yield
    for session in product.json("list"):
        product.sluice("stop", session["name"])
    until(lambda: product.json("list"), lambda live: not live)


def test_a_requeued_service_is_withdrawn_and_comes_back_where_it_is_then(product: Product) -> None:
    before = launch(product, "again", recipe="requeued-model")
    assert answers(product, before)
    slurm(product, "scontrol", "requeue", job(before), user="alice")
    until_shown(product, "again", lambda session: session["phase"] in {"queued", "starting"})
    hurry(product, before)
    after = until_shown(product, "again", lambda s: s["phase"] == "ready" and s["job"]["restarts"] == 1, 180)
    assert answers(product, after)
    assert job(after) == job(before)
    phases = [event["phase"] for event in told(product, "again", "session.phase")]
    assert phases[-1] == "ready"
    assert phases.count("ready") == 2


def test_a_suspended_service_is_withdrawn_until_it_is_resumed(product: Product) -> None:
    session = launch(product, "paused", recipe="requeued-model")
    slurm(product, "scontrol", "suspend", job(session))
    paused = until_shown(product, "paused", lambda found: found["reason"] == "suspended")
    assert paused["phase"] == "starting"
    assert "resumed" in paused["message"]
    until(lambda: status(product, session), lambda now: now == 503, what="nobody is sent there any more")
    slurm(product, "scontrol", "resume", job(session))
    until_shown(product, "paused", phase("ready"))
    assert answers(product, session)


def test_a_job_that_is_held_says_so_and_starts_when_released(product: Product) -> None:
    session = launch(product, "held")
    slurm(product, "scontrol", "requeuehold", job(session), user="alice")
    held = until_shown(product, "held", lambda found: found["reason"].startswith("JobHeldUser"))
    assert held["phase"] == "queued"
    slurm(product, "scontrol", "release", job(session), user="alice")
    hurry(product, session)
    until_shown(product, "held", phase("running"), 180)


def test_a_waiting_job_is_held_released_and_put_first(product: Product) -> None:
    blocker = slurm(product, "sbatch", "--parsable", "-N2", "--exclusive", "--wrap", "sleep 600", user="bob")
    try:
        until(lambda: slurm(product, "squeue", "-h", "-o", "%T", "-j", blocker), lambda text: text == "RUNNING")
        for name in ("waits", "overtakes"):
            product.sluice("launch", "requeued", "-p", "command=true", "--name", name, "--no-wait")

        def order() -> list[Any]:
            return [shown(product, name)["queue_position"] for name in ("waits", "overtakes")]

        until(order, lambda places: None not in places and places[0] < places[1])
        before = shown(product, "overtakes")
        slurm(product, "scontrol", "hold", job(before), user="alice")
        until_shown(product, "overtakes", lambda found: found["reason"].startswith("JobHeldUser"))
        slurm(product, "scontrol", "release", job(before), user="alice")
        slurm(product, "scontrol", "top", job(before))
        until(order, lambda places: None not in places and places[0] > places[1])
    finally:
        slurm(product, "scancel", blocker)
    until_shown(product, "overtakes", phase("succeeded"), 180)


def test_a_changed_time_limit_is_shown_and_told(product: Product) -> None:
    session = launch(product, "longer")
    assert session["job"]["time_limit"] == 30
    slurm(product, "scontrol", "update", f"JobId={job(session)}", "TimeLimit=1-00:00:00")
    until_shown(product, "longer", lambda found: found["job"]["time_limit"] == 1440, 150)
    assert told(product, "longer", "session.time_limit") == [{"minutes": 1440, "before": 30}]


def test_secrets_are_there_again_after_a_requeue_and_gone_at_the_end(product: Product) -> None:
    command = "echo secret=$TOKEN; sleep 600"
    session = launch(product, "secret", "-p", "token=hush", command=command)
    folder = f"/home/alice/.sluice/sessions/{session['id']}"
    until(lambda: product.sluice("logs", "secret").stdout, lambda text: text.count("secret=hush") == 1)
    slurm(product, "scontrol", "requeue", job(session), user="alice")
    hurry(product, session)
    until(lambda: product.sluice("logs", "secret").stdout, lambda text: text.count("secret=hush") == 2, within=180)
    assert slurm(product, "stat", "-c", "%a", f"{folder}/secrets.json", user="alice") == "600"
    product.sluice("stop", "secret", "--wait")
    until(lambda: slurm(product, "ls", "-a", folder, user="alice"), lambda ls: "secrets.json" not in ls)


@pytest.mark.parametrize("who", [None, "alice"], ids=["root", "owner"])
def test_a_job_that_somebody_cancelled(product: Product, who: str | None) -> None:
    session = launch(product, f"cancelled-{who or 'root'}")
    slurm(product, "scancel", job(session), user=who)
    ended = until_shown(product, session["name"], lambda found: found["ended"])
    assert (ended["phase"], ended["reason"]) == ("failed", "cancelled")


def test_a_preempted_job_comes_back_or_has_ended(product: Product) -> None:
    cheap = ("--qos", "preemptible")
    comes_back = launch(product, "comes-back", *cheap)
    ends = launch(product, "ends", *cheap, recipe="shell-command")
    urgent = slurm(
        product, "sbatch", "--parsable", "-N2", "--exclusive", "--qos=normal", "--wrap", "sleep 600", user="bob"
    )
    try:
        ended = until_shown(product, "ends", lambda found: found["ended"])
        assert (ended["phase"], ended["reason"]) == ("failed", "preempted")
        waits = until_shown(product, "comes-back", phase("queued"))
        assert waits["job"]["restarts"] == 1
    finally:
        slurm(product, "scancel", urgent)
    hurry(product, comes_back)
    back = until_shown(product, "comes-back", phase("running"), 180)
    assert job(back) == job(comes_back)
    del ends


def test_a_node_that_fails_under_a_job(product: Product) -> None:
    comes_back = launch(product, "survivor")
    node = comes_back["job"]["nodes"]
    fragile = launch(product, "fragile", recipe="shell-command")
    nodes = {node, fragile["job"]["nodes"]}
    try:
        for one in nodes:
            slurm(product, "scontrol", "update", f"NodeName={one}", "State=DOWN", "Reason=test")
        ended = until_shown(product, "fragile", lambda found: found["ended"])
        assert (ended["phase"], ended["reason"]) == ("failed", "node_fail")
    finally:
        for one in nodes:
            slurm(
                product, "scontrol", "update", f"NodeName={one}", "State=RESUME", check=False
            )  # it may be back by itself
    hurry(product, comes_back)
    back = until_shown(product, "survivor", lambda s: s["phase"] == "running" and s["job"]["restarts"] == 1, 180)
    assert job(back) == job(comes_back)


@contextmanager
def purging_soon(product: Product) -> Iterator[None]:
    """Slurm forgets ended jobs within seconds."""
    keep_ended_jobs(product, seconds=2)
    try:
        yield
    finally:
        keep_ended_jobs(product, seconds=300)


def keep_ended_jobs(product: Product, seconds: int) -> None:
    # scontrol returns when slurmctld begins to start anew, and while it loads it dies of a slurmdbd that stops
    slurm(product, "sed", "-i", f"s/^MinJobAge=.*/MinJobAge={seconds}/", "/etc/slurm/slurm.conf")
    slurm(product, "scontrol", "reconfigure")
    config = ("scontrol", "show", "config")
    until(lambda: re.search(rf"MinJobAge\s+= {seconds} sec", slurm(product, *config, check=False)) is not None)


def purged(product: Product, session: Session) -> bool:
    """Whether slurmctld says that it has no such job: one that does not answer has said nothing."""
    asked = ["squeue", "-h", "-t", "all", "-j", job(session)]
    return "Invalid job id specified" in product.cluster.exec("ctl", asked, check=False).stderr


@contextmanager
def stopped_amid_a_look(product: Product) -> Iterator[None]:
    """The server stands still, and has asked Slurm about its jobs but not read the answer."""

    def looks() -> int:
        return int(slurm(product, "grep", "-c", "GET /slurm/.*/jobs/state/", "/var/log/slurm/slurmrestd.out"))

    product.cluster.signal("ctl", "slurmctld", "STOP")
    try:
        before = looks()
        until(looks, lambda now: now > before, what="a look is under way")
        os.kill(product.pid, signal.SIGSTOP)
    finally:
        product.cluster.signal("ctl", "slurmctld", "CONT")
    try:
        yield
    finally:
        os.kill(product.pid, signal.SIGCONT)


def test_a_server_that_was_stopped_amid_a_look_looks_again_soon(product: Product) -> None:
    session = launch(product, "stood-still", recipe="shell-command", command="sleep 24; exit 7")
    with stopped_amid_a_look(product):
        state = ("squeue", "-h", "-t", "all", "-o", "%T", "-j", job(session))
        until(lambda: slurm(product, *state), lambda text: text == "FAILED")
    ended = until_shown(product, "stood-still", lambda found: found["ended"], 60)
    assert (ended["phase"], ended["job"]["exit_code"]) == ("failed", 7)


def test_a_job_that_ended_and_was_purged_while_the_server_was_down_and_accounting_late(product: Product) -> None:
    session = launch(product, "purged", recipe="shell-command", command="sleep 20; exit 7")
    with purging_soon(product):
        product.cluster.service("ctl", "stop", "slurmdbd")
        os.kill(product.pid, signal.SIGSTOP)
        try:
            until(lambda: purged(product, session), within=180)
        finally:
            os.kill(product.pid, signal.SIGCONT)
        try:
            unsure = until_shown(product, "purged", lambda found: found["job"]["state"] == "UNKNOWN")
            assert not unsure["ended"]
        finally:
            product.cluster.service("ctl", "start", "slurmdbd")
        ended = until_shown(product, "purged", lambda found: found["ended"], 180)
    assert (ended["phase"], ended["job"]["exit_code"]) == ("failed", 7)


def test_a_stop_while_slurm_is_away_is_done_when_it_is_back(product: Product) -> None:
    launch(product, "stopped", recipe="shell-command")
    product.cluster.service("ctl", "stop", "slurmctld")
    try:
        for _ in range(2):
            assert product.sluice("stop", "stopped").returncode == 0
        away = until_shown(
            product, "stopped", lambda s: s["conditions"].get("SchedulerReachable", {}).get("status") is False
        )
        assert not away["ended"]
    finally:
        product.cluster.service("ctl", "start", "slurmctld")
    ended = until_shown(product, "stopped", lambda found: found["ended"], 120)
    assert ended["phase"] == "stopped"


def test_a_limit_is_waited_for_and_the_next_goes_when_one_has_ended(product: Product) -> None:
    slurm(product, "sacctmgr", "-i", "modify", "user", "alice", "set", "MaxSubmitJobs=1")
    try:
        first = launch(product, "first", recipe="shell-command")
        product.sluice("launch", "shell-command", "-p", "command=true", "--name", "second", "--no-wait")
        waits = until_shown(product, "second", lambda found: found["reason"] == "limit")
        assert waits["phase"] == "requested"
        assert "limit" in waits["message"].lower() or "policy" in waits["message"].lower()
        product.sluice("stop", first["name"], "--wait")
        until_shown(product, "second", phase("succeeded"), 150)
    finally:
        slurm(product, "sacctmgr", "-i", "modify", "user", "alice", "set", "MaxSubmitJobs=-1")


def test_the_second_job_of_an_attempt_does_nothing(product: Product, tmp_path: Path) -> None:
    session = launch(product, "twice", recipe="shell-command", command="echo begun; sleep 600")
    until(lambda: product.sluice("logs", "twice").stdout, lambda text: "begun" in text)
    script = product.json("show", "twice", "--script")["script"]
    argv = product.cluster.exec_argv("login", ["sbatch", "--parsable"], "alice")
    second = subprocess.run(argv, input=script, capture_output=True, text=True, check=True).stdout.strip()
    fields = ("sacct", "-n", "-X", "-P", "-j", second, "-o", "State,ExitCode,Comment")
    said = until(
        lambda: slurm(product, *fields), lambda text: bool(text) and "RUNNING" not in text and "PENDING" not in text
    )
    assert f"reason=duplicate code=75 holder={job(session)}" in said or "CANCELLED" in said
    assert product.sluice("logs", "twice").stdout.count("begun") == 1
    assert shown(product, "twice")["phase"] == "running"
    del tmp_path


def test_orphans_are_ended_and_counted_and_others_left_alone(product: Product) -> None:
    session = launch(product, "orphan", recipe="shell-command")
    kept = launch(product, "kept", recipe="shell-command")
    script = product.json("show", "kept", "--script")["script"]
    held = subprocess.run(
        product.cluster.exec_argv("login", ["sbatch", "--parsable", "--hold"], "alice"),
        input=script, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    foreign = slurm(
        product, "sbatch", "--parsable", "--hold", "--comment=sluice/1@00000000",
        "--job-name=sluice-01jd0000000000000000000000-1", "--wrap", "true", user="alice",
    )  # fmt: skip
    with sqlite3.connect(product.log.parent / "state" / "sluice.db", timeout=30) as database:
        database.execute("PRAGMA foreign_keys=ON")
        database.execute("DELETE FROM sessions WHERE id = ?", (session["id"],))
    try:
        state = ("squeue", "-h", "-t", "all", "-o", "%T", "-j")
        numbers = f"{job(session)},{held}"
        until(lambda: slurm(product, *state, numbers), lambda text: text.split() == ["CANCELLED"] * 2)
        assert slurm(product, *state, foreign) == "PENDING"
        assert shown(product, "kept")["phase"] == "running"
        headers = {"Authorization": f"Bearer {product.environment['SLUICE_TOKEN']}"}
        counted = [
            re.compile(rf'sluice_orphans_total\{{[^}}]*kind="{kind}"[^}}]*\}} [1-9]') for kind in ("double", "unknown")
        ]
        until(
            lambda: httpx.get(f"{product.url}/monitoring/metrics", headers=headers, timeout=60).text,
            lambda text: all(kind.search(text) for kind in counted),
        )
        assert {"kind": "double", "job_id": int(held)} in told(product, "kept", "session.orphan")
    finally:
        slurm(product, "scancel", foreign)
    del kept
