"""Several real jobs of one session: nobody who calls it notices that it is renewed, scaled, or that a job is killed."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from gateway.cluster.config import NODE_CPUS
from tests.product import Product
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("images")]

Job = dict[str, Any]
PAUSE = 0.2


@dataclass
class Callers:
    """Somebody who asks a session one small question after the other."""

    product: Product
    model: str
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    enough: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        auth = {"Authorization": f"Bearer {self.product.environment['SLUICE_TOKEN']}"}
        with httpx.Client(base_url=self.product.url, headers=auth, timeout=60) as http:
            while not self.enough.wait(PAUSE):
                try:
                    answer = http.post("/v1/chat/completions", json=question(self.model))
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                    continue
                if answer.status_code == 200:
                    self.answered += 1
                else:
                    self.failed.append(f"{answer.status_code} {answer.text[:200]}")


def question(model: str) -> dict[str, Any]:
    return {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]}


def jobs(product: Product, name: str, *, over: bool = False) -> list[Job]:
    """The session's jobs that live, or all it had."""
    auth = {"Authorization": f"Bearer {product.environment['SLUICE_TOKEN']}"}
    answer = httpx.get(f"{product.url}/api/v1/sessions/{name}/jobs", headers=auth, timeout=60)
    assert answer.status_code == 200, answer.text
    return [job for job in answer.json()["items"] if over or job["phase"] not in {"succeeded", "failed", "stopped"}]


def ready(found: list[Job]) -> list[int]:
    """The attempts that take requests."""
    return [job["attempt"] for job in found if job["phase"] == "ready" and not job["draining"]]


def phases(product: Product, name: str) -> list[str]:
    told = product.sluice("events", name, "--json").stdout
    events = [json.loads(line) for line in told.splitlines()]
    return [event["data"]["phase"] for event in events if event["type"] == "session.phase"]


@contextmanager
def called(product: Product, model: str) -> Iterator[Callers]:
    """Somebody asks all the time."""
    callers = Callers(product, model)
    thread = threading.Thread(target=callers.run)
    thread.start()
    try:
        yield callers
    finally:
        callers.enough.set()
        thread.join()


def slurm(product: Product, *argv: str, user: str | None = None) -> str:
    return product.cluster.exec("login" if user else "ctl", list(argv), user=user).stdout.strip()


def moved(product: Product, name: str, attempt: int) -> Job:
    """The session's only job, once it is a later one than that."""
    found = until(
        lambda: jobs(product, name),
        lambda left: len(left) == 1 and ready(left) != [] and left[0]["attempt"] > attempt,
        within=180,
    )
    return found[0]


def endpoints(product: Product, state: str) -> int:
    """How many the data plane has in this state."""
    auth = {"Authorization": f"Bearer {product.environment['SLUICE_TOKEN']}"}
    text = httpx.get(f"{product.url}/api/v1/metrics", headers=auth, timeout=60).text
    found = re.search(rf'^sluice_proxy_endpoints\{{state="{state}"\}} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def lasting(product: Product, images: None) -> Iterator[Callers]:
    """A model server with a short time limit, called all the time."""
    del images
    done = product.sluice("launch", "several", "-p", "alias=lasting", "--name", "lasting", "--time", "2m", "--wait")
    assert done.returncode == 0, done.stderr
    with called(product, "lasting") as callers:
        yield callers
    product.sluice("stop", "lasting", "--wait")


def test_one_job_becomes_two_and_one_again_and_a_killed_one_is_replaced(product: Product, lasting: Callers) -> None:
    assert not lasting.failed
    done = product.sluice("launch", "several", "-p", "alias=many", "--name", "many", "--replicas", "1", "--wait")
    assert done.returncode == 0, done.stderr
    assert product.sluice("scale", "many", "2").returncode == 0
    until(lambda: jobs(product, "many"), lambda found: ready(found) == [1, 2])
    with called(product, "many") as callers:
        own = next(job for job in jobs(product, "many") if job["attempt"] == 1)
        product.cluster.exec("login", ["scancel", str(own["job_id"])], user="alice")
        until(lambda: jobs(product, "many"), lambda found: ready(found) == [2, 3])
        assert product.json("show", "many")["phase"] == "ready"
        assert product.sluice("scale", "many", "1").returncode == 0
        (last,) = until(lambda: jobs(product, "many"), lambda found: len(found) == 1)
        answered = callers.answered
        until(lambda: callers.answered, lambda now: now > answered + 2)
    assert last["phase"] == "ready"
    assert phases(product, "many").count("ready") == 1
    # what was under way in the killed job may be lost, and nothing else
    assert len(callers.failed) <= 1, callers.failed
    named = product.cluster.exec("ctl", ["squeue", "--noheader", "--format=%j"]).stdout.split()
    assert len(named) == len(set(named))
    assert product.sluice("stop", "many", "--wait").returncode == 0


def test_a_session_sleeps_and_the_first_request_starts_it(product: Product, lasting: Callers) -> None:
    assert not lasting.failed
    done = product.sluice("launch", "several", "-p", "alias=nap", "--name", "nap", "--replicas", "0..1", "--wait")
    assert done.returncode == 0, done.stderr
    until(lambda: product.json("show", "nap"), lambda found: found["reason"] == "asleep")
    until(lambda: jobs(product, "nap"), lambda found: len(found) == 1 and found[0]["job_id"] is None)
    auth = {"Authorization": f"Bearer {product.environment['SLUICE_TOKEN']}"}
    answers: list[int] = []
    told: list[tuple[int, str]] = []

    def ask() -> None:
        with httpx.Client(base_url=product.url, headers=auth, timeout=170) as http:
            answers.append(http.post("/v1/chat/completions", json=question("nap")).status_code)

    def talk() -> None:
        done = product.sluice("chat", "nap", "Hello", "--max-tokens", "2")
        told.append((done.returncode, done.stderr))

    threads = [threading.Thread(target=talk), *(threading.Thread(target=ask) for _ in range(5))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 5
    assert [code for code, _ in told] == [0], told
    # it may sleep again by now, and what would start next is not in Slurm yet
    assert [job["attempt"] for job in jobs(product, "nap", over=True) if job["job_id"]] == [1, 2]
    assert product.sluice("stop", "nap", "--wait").returncode == 0


def test_a_session_outlives_the_time_limit_of_its_job_and_no_request_fails(product: Product, lasting: Callers) -> None:
    found = until(lambda: product.json("show", "lasting"), lambda now: now["job"]["attempt"] > 1, within=240)
    assert found["phase"] == "ready"
    until(lambda: jobs(product, "lasting"), lambda left: 1 not in [job["attempt"] for job in left])
    answered = lasting.answered
    until(lambda: lasting.answered, lambda now: now > answered + 5)
    assert lasting.failed == []
    assert phases(product, "lasting").count("ready") == 1


def test_a_drained_node_and_a_preemption_that_is_announced_cost_no_request(product: Product, lasting: Callers) -> None:
    assert not lasting.failed
    slurm(product, "sacctmgr", "-i", "-Q", "modify", "qos", "preemptible", "set", "preemptmode=cancel", "gracetime=120")
    words = ("launch", "several", "-p", "alias=moves", "--name", "moves", "--qos", "preemptible", "--time", "1h")
    done = product.sluice(*words, "--wait")
    assert done.returncode == 0, done.stderr
    (first,) = jobs(product, "moves")
    with called(product, "moves") as callers:
        slurm(product, "scontrol", "update", f"nodename={first['nodes']}", "state=drain", "reason=test")
        try:
            second = moved(product, "moves", first["attempt"])
        finally:
            slurm(product, "scontrol", "update", f"nodename={first['nodes']}", "state=resume")
        assert second["nodes"] != first["nodes"]
        completing = ("squeue", "-h", "-t", "completing", "-w", second["nodes"])
        until(lambda: slurm(product, *completing).strip(), lambda lines: not lines)
        there = [
            line.split() for line in slurm(product, "squeue", "-h", "-w", second["nodes"], "-o", "%q %C").splitlines()
        ]
        room = NODE_CPUS - sum(int(cpus) for qos, cpus in there if qos != "preemptible")
        wants = ("sbatch", "--parsable", "-w", second["nodes"], "-c", str(room), "--mem=100", "--wrap", "sleep 600")
        other = slurm(product, *wants, user="bob")
        try:
            third = moved(product, "moves", second["attempt"])
        finally:
            slurm(product, "scancel", other)
        answered = callers.answered
        until(lambda: callers.answered, lambda now: now > answered + 5)
    assert third["job_id"] != second["job_id"]
    assert callers.failed == []
    assert phases(product, "moves").count("ready") == 1
    assert product.sluice("stop", "moves", "--wait").returncode == 0


def test_a_node_that_vanishes_without_a_word_gets_no_requests_and_comes_back(product: Product) -> None:
    words = ("launch", "several", "-p", "alias=far", "--name", "far", "--replicas", "2", "--cpus", "9")
    done = product.sluice(*words, "--wait")
    assert done.returncode == 0, done.stderr
    until(lambda: jobs(product, "far"), lambda found: ready(found) == [1, 2])
    assert {job["nodes"] for job in jobs(product, "far")} == {"node1", "node2"}
    until(lambda: endpoints(product, "failing"), lambda number: number == 0)
    product.cluster.cut_link("node2")
    try:
        until(lambda: endpoints(product, "failing"), bool)  # another session's job may be there as well
        with called(product, "far") as callers:
            until(lambda: callers.answered, lambda now: now > 5)
        assert callers.failed == []
    finally:
        product.cluster.restore_link("node2")
    until(lambda: endpoints(product, "failing"), lambda number: number == 0)
    assert product.sluice("stop", "far", "--wait").returncode == 0
