"""Ways for a model server to die, when it did as its node saw it, and when nothing was sent to it any more."""

import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.environment import Environment

SERVER = "llama-server"
LOOK_EVERY = 0.02
WITHIN = 120.0
_ENDPOINTS = re.compile(r'^sluice_proxy_endpoints\{state="(\w+)"\} (\d+)', re.MULTILINE)


@dataclass(frozen=True)
class Seen:
    """How many endpoints the client service had at a time: those that get requests, and all."""

    at: float
    fit: int
    all: int


@dataclass
class Watch:
    """Looks at the client service's endpoints all the time."""

    env: Environment
    last: Seen = field(default_factory=lambda: Seen(0.0, 0, 0))
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until told to end."""
        with httpx.Client(headers=self.env.headers, timeout=30, trust_env=False) as http:
            while not self._ended.wait(LOOK_EVERY):
                with suppress(httpx.HTTPError):
                    text = http.get(f"{self.env.url}/api/v1/metrics").text
                    numbers = {state: int(number) for state, number in _ENDPOINTS.findall(text)}
                    self.last = Seen(time.monotonic(), numbers.get("fit", 0), sum(numbers.values()))

    def until(self, reached: Callable[[Seen], bool], what: str) -> Seen:
        """The first sight that is so."""
        end = time.monotonic() + WITHIN
        while not reached(seen := self.last):
            assert time.monotonic() < end, f"not within {WITHIN:g} s: {what}; {seen}"
            time.sleep(LOOK_EVERY / 4)
        return seen

    def end(self) -> None:
        self._ended.set()


@contextmanager
def watch(env: Environment) -> Iterator[Watch]:
    made = Watch(env)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        made.end()
        thread.join()


def kill_service(env: Environment, job: int) -> float:
    """The server is killed, and the agent beside it lives; when that was."""
    del env
    number = server_of(job)
    with _watched(number) as died:
        os.kill(number, signal.SIGKILL)
        return died()


def kill_job(env: Environment, job: int) -> float:
    """Every process of the job is killed at once, the agent too; when the server died of it."""
    with _watched(server_of(job)) as died:
        env.cluster.exec("login", ["scancel", "--signal=KILL", "--full", str(job)], user="alice")
        return died()


def cancel(env: Environment, job: int) -> float:
    """`scancel` as everybody types it: the agent drains. When that was asked for."""
    began = time.monotonic()
    env.cluster.exec("login", ["scancel", str(job)], user="alice")
    return began


def server_of(job: int) -> int:
    """The process id, on this machine, of a job's model server."""
    parents, names = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told = dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines() if ":\t" in line)
            parents[int(place.name)] = int(told["PPid"])
            names[int(place.name)] = told["Name"], (place / "cmdline").read_bytes()
    steps = {number for number, (_, line) in names.items() if line.startswith(b"slurmstepd: [%d.batch]" % job)}
    for number, (name, _) in names.items():
        if name == SERVER and steps.intersection(_above(number, parents)):
            return number
    raise AssertionError(f"job {job} has no {SERVER}")


def _above(number: int, parents: dict[int, int]) -> Iterator[int]:
    while number in parents:
        yield number
        number = parents[number]


@contextmanager
def _watched(number: int) -> Iterator[Callable[[], float]]:
    """Gives what waits for the end of this process, and tells when that was."""
    ended: list[float] = []
    descriptor = os.pidfd_open(number)

    def wait() -> None:
        select.select([descriptor], [], [], WITHIN)
        ended.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()

    def died() -> float:
        thread.join()
        return ended[0]

    try:
        yield died
    finally:
        thread.join()
        os.close(descriptor)
