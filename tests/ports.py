"""Ports for programs that must be told theirs before they start."""

import os
import secrets
import socket

# Below what Linux gives to connections that go out, so that none of those takes it before it is used.
RANGE = range(20000, 32000)
_given: set[int] = set()


def own_range(worker: str, workers: int) -> range:
    """The ports of one of the workers that run tests beside each other: what one draws, no other uses meanwhile."""
    each = len(RANGE) // workers
    first = RANGE.start + each * int(worker.removeprefix("gw"))
    return range(first, first + each)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, another one each time; by lot, as other runs look for some."""
    ours = own_range(
        os.environ.get("PYTEST_XDIST_WORKER", "gw0"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    )
    while True:
        port = secrets.choice(ours)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
