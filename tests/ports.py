"""Ports for programs that must be told theirs before they start."""

import secrets
import socket

# Below what Linux gives to connections that go out, so that none of those takes it before it is used.
RANGE = range(20000, 32000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on; drawn by lot, as others look for one at the same time."""
    while True:
        port = secrets.choice(RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
