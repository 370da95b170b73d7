"""What this node gives us: open files, connections, free ports."""

from __future__ import annotations

import resource
import socket

_MAX_FILES = 65536
_MAX_CONNECTIONS = 4096
_SPARE_FILES = 600  # handshakes, logs, helpers


def raise_file_limit() -> None:
    """As many open files as allowed, for us and for the program: servers often need more than the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections() -> int:
    """How many connections can be relayed at once: each takes two open files."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(16, min(_MAX_CONNECTIONS, (soft - _SPARE_FILES) // 2))


def free_port(address: str) -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])
