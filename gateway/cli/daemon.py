"""The gateway as a background process of `sluice up`: started, found again, and ended, exactly that one."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gateway
from gateway.cli.errors import INVALID
from gateway.errors import SettingsInvalid, Unavailable

if TYPE_CHECKING:
    from gateway.sdk.trust import Ca

READY_SECONDS = 60.0
STOP_SECONDS = 45.0
_LOOK_AGAIN = 0.1
_LAST_LINES = 15
_LOG_BYTES = 10_000_000


@dataclass(frozen=True)
class Daemon:
    """A running gateway. `born` is its start time in the kernel's ticks: a pid alone may be another process by now."""

    pid: int
    born: int
    url: str
    settings: str
    """What it was started with: a digest of the settings file."""

    @property
    def alive(self) -> bool:
        return born(self.pid) == self.born


def find(state_dir: Path) -> Daemon | None:
    """The gateway that was started with this state directory, if it still runs."""
    try:
        found = Daemon(**json.loads(_record(state_dir).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.alive else None


def log_file(state_dir: Path) -> Path:
    return state_dir / "gateway.log"


def start(state_dir: Path, url: str, settings: str, environ: Mapping[str, str], ca: "Ca" = None) -> Daemon:
    """Start `sluice serve all` on its own, and wait until it answers. Unavailable with the end of its log."""
    log = log_file(state_dir)
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli.main", "serve", "all"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=dict(environ),
            cwd=Path(gateway.__file__).parent.parent,  # where `-m` finds the package, installed or not
            start_new_session=True,
        )
    finally:
        os.close(file)
    daemon = Daemon(process.pid, born(process.pid) or 0, url, settings)
    _record(state_dir).write_text(json.dumps(asdict(daemon)))
    try:
        _wait_until_ready(process, url, log, ca)
    except BaseException:
        stop(daemon)
        forget(state_dir)
        raise
    return daemon


def stop(daemon: Daemon) -> bool:
    """SIGTERM, and wait for its end; SIGKILL if it does not come. Whether it ended by itself."""
    try:
        handle = os.pidfd_open(daemon.pid)
    except ProcessLookupError:
        return True
    try:
        if not daemon.alive:  # looked at while the handle holds the process: nothing else can have its pid now
            return True
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if _ended(handle, STOP_SECONDS):
            return True
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        _ended(handle, STOP_SECONDS)
        return False
    finally:
        os.close(handle)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(daemon.pid, os.WNOHANG)


def forget(state_dir: Path) -> None:
    _record(state_dir).unlink(missing_ok=True)


def born(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None if it is gone, or dead and not yet waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _ended(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path, ca: "Ca") -> None:
    from gateway.sdk import Sluice

    deadline = time.monotonic() + READY_SECONDS
    with Sluice(url, "none", attempts=1, timeout=2.0, ca=ca) as sluice:
        while True:
            code = process.poll()
            if code is not None:
                kind = SettingsInvalid if code == INVALID else Unavailable
                raise kind(f"the gateway ended with exit code {code}; its last words:\n{_tail(log)}")
            if sluice.alive():
                return
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the gateway does not answer at {url} after {READY_SECONDS:.0f} s; its last words:\n{_tail(log)}",
                    hint=f"Its log: {log}",
                )
            time.sleep(_LOOK_AGAIN)


def _tail(log: Path) -> str:
    """Its last lines; from the error on that ended it, if there is one among them."""
    lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    errors = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    lines = lines[errors[-1] :] if errors else lines
    return "\n".join(f"  {line}" for line in lines)


def _record(state_dir: Path) -> Path:
    return state_dir / "gateway.json"
