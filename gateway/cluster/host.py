"""Starts one host in namespaces of its own, and runs commands in it."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.cluster import config
from gateway.cluster.processes import MARK, children, started
from gateway.cluster.record import Record, Running
from gateway.cluster.rootfs import script_path
from gateway.cluster.spec import PEOPLE, Host, parse_gpus
from gateway.errors import ClusterError

# Builds unpack whole images in /tmp: in memory that takes half the time, where there is enough of it.
_TMPFS_FROM_BYTES = 12 << 30
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Started by a shell that ends at once, so that the host belongs to no process of ours and nobody has to wait for it.
_DETACH = 'exec 3<&0; "$@" <&3 3<&- 2>>"$SLUICE_BOOT_LOG" & echo $!'


@dataclass(frozen=True)
class Starting:
    """A host whose namespaces are there and whose pid 1 waits for the word to go on."""

    host: Host
    outer: int
    init: int
    starter: subprocess.Popen[str]

    def go(self) -> Running:
        """Let it start its daemons; returns at once."""
        born = started(self.init)
        assert self.starter.stdin is not None  # noqa: S101 - a pipe was asked for
        try:
            self.starter.stdin.write("go\n")
            self.starter.stdin.close()
        except BrokenPipeError:
            born = 0
        return Running(self.outer, self.init, born)


def start(record: Record, state: Path, host: Host, *, binds: Sequence[str] = ()) -> Starting:
    """Make the namespaces of a host and wait until they are entered. Its network is then to be wired, by its pid."""
    net = record.net
    own_net = host.role != "build"
    lower = [state / "layers" / host.name, state / "layers" / "common", record.rootfs]
    devices = config.devices(parse_gpus(record.spec.gpus)) if host.role == "node" else []
    log = state / "logs" / host.name / "boot.log"
    environment = {
        "PATH": os.environ.get("PATH", _PATH),
        MARK: mark(state, record),
        "HOST": host.name,
        "ROLE": host.role,
        "MARK": mark(state, record),
        "STATE": str(state),
        "LOWER": ":".join(map(str, lower)),
        "DEVICES": " ".join(f"{name}:{major}:{minor}" for name, major, minor in devices),
        "ADDRESS": f"{net.address(host.octet)}/24" if own_net else "",
        "IMAGES": record.images,
        "TMP_ON_DISK": "yes" if host.role == "build" and _memory() < _TMPFS_FROM_BYTES else "",
        "BINDS": "\n".join(binds),
        "SLUICE_BOOT_LOG": str(log),
    }
    namespaces = ["--mount", "--uts", "--ipc", "--pid", *(["--net"] if own_net else [])]
    unshare = ["unshare", *namespaces, "--fork", "--kill-child", "--propagation", "private"]
    starter = subprocess.Popen(
        ["sh", "-c", _DETACH, "sh", "setsid", *unshare, "sh", str(script_path("enter-host.sh"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd="/", start_new_session=True,
    )  # fmt: skip
    assert starter.stdout is not None  # noqa: S101 - a pipe was asked for
    # The shell says the number of the one, the other says that it is there.
    said = {starter.stdout.readline().strip() for _ in range(2)}
    starter.stdout.close()
    starter.wait()
    said.discard("entered")
    outer = int(next(iter(said), "0") or 0)
    inner = children(outer)
    if not inner:
        raise failed(record, state, host)
    return Starting(host, outer, inner[0], starter)


def failed(record: Record, state: Path, host: Host, what: str = "did not start") -> ClusterError:
    """An error with the end of the host's logs."""
    end: list[str] = []
    for name in ("boot.log", "init.log"):
        path = state / "logs" / host.name / name
        if path.exists():
            end += path.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
    return ClusterError("\n".join([f"host {host.name} of cluster {record.spec.name} {what}:", *end]))


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def mark(state: Path, record: Record) -> str:
    return f"{state}:{record.net.identity}"


def command(
    running: Running, argv: Sequence[str], *, user: str = "", environment: Mapping[str, str] | None = None
) -> list[str]:
    """The argv that runs `argv` in the host, as root or as a user in their home directory. Pure."""
    enter = ["nsenter", "--target", str(running.init)]
    enter += ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd=/"]
    people = {person.name for person in PEOPLE}
    home = f"/home/{user}" if user in people else "/" if user else "/root"
    who = user or "root"
    variables = {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": home, "USER": who, "LOGNAME": who, "SHELL": "/bin/bash"}
    clean = ["/usr/bin/env", "-i", "-C", home]
    clean += [f"{name}={value}" for name, value in (variables | dict(environment or {})).items()]
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user else []
    return [*enter, "--", *clean, *become, *argv]
