"""The job's directories: the session directory on the cluster, and a private one on the node."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import stat
import sys
import tempfile
import time
from typing import Any, Callable, Dict, List, Optional

_SOCKET = "run/service.sock"
_SOCKET_MAX = 107  # bytes of a Unix socket's path
_PREFIX = "sluice-"
_LOCK = ".lock"


class Places:
    """Absolute paths. `runtime` is 0700, on the node, and goes with the job; `shared` in it is /run/sluice inside."""

    def __init__(self, session: str, attempt: int, runtime: str) -> None:
        self.session = session
        self.work = os.path.join(session, "work")
        self.home = os.path.join(session, "home")
        self.job_log = os.path.join(session, f"job-{attempt}.log")
        self.service_log = os.path.join(session, f"service-{attempt}.log")
        self.claim = os.path.join(session, f"claim-{attempt}")
        self.secrets = os.path.join(session, "secrets.json")
        self.runtime = runtime
        self.shared = os.path.join(runtime, "run")
        self.socket = os.path.join(runtime, _SOCKET)
        self.tmp = os.path.join(runtime, "tmp")
        self.var_tmp = os.path.join(runtime, "var_tmp")
        self._lock: Optional[int] = None

    def open_session(self) -> None:
        """Make what is not there. PermissionError if the session directory is another user's."""
        os.makedirs(self.session, mode=0o700, exist_ok=True)
        owner_only(self.session)
        for path in (self.work, self.home):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def open_runtime(self) -> None:
        """Fill the runtime directory, and hold it: a directory that nobody holds is a dead job's."""
        for path in (self.shared, self.tmp, self.var_tmp):
            os.makedirs(path, mode=0o700, exist_ok=True)
        for path in (self.tmp, self.var_tmp):
            os.chmod(path, 0o1777)  # noqa: S103  # as programs want it; the directory above admits the owner only
        self._lock = os.open(os.path.join(self.runtime, _LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove_runtime(self) -> None:
        remove_tree(self.runtime)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def home() -> str:
    return pwd.getpwuid(os.getuid()).pw_dir


def session_directory(directory: str) -> str:
    """The spec's `directory` as an absolute path."""
    return os.path.normpath(os.path.join(home(), directory))


def make_runtime(beside: str = "") -> str:
    """A private directory on this node: that of the file `beside` if it is one of ours, else a new one."""
    candidate = os.path.dirname(os.path.abspath(beside)) if beside else ""
    if os.path.basename(candidate).startswith(_PREFIX) and _fits(candidate) and _is_private(candidate):
        return candidate
    for base in (os.environ.get("TMPDIR", ""), "/tmp"):  # noqa: S108
        if base and os.path.isdir(base) and os.access(base, os.W_OK):
            made = tempfile.mkdtemp(prefix=_PREFIX, dir=base)
            if _fits(made):
                return made
            os.rmdir(made)
    return tempfile.mkdtemp(prefix=_PREFIX)


def sweep(base: str, *, older_than: float = 60.0) -> List[str]:
    """Remove runtime directories of mine in `base` whose agent is dead (killed outright); their paths."""
    removed = []
    for name in os.listdir(base):
        path = os.path.join(base, name)
        lock = os.path.join(path, _LOCK)
        if not name.startswith(_PREFIX) or not _is_private(path):
            continue
        try:
            if time.time() - os.stat(lock).st_mtime < older_than:
                continue
            descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
            removed.append(path)
        except OSError:
            pass  # held: its job lives
        finally:
            os.close(descriptor)
    return removed


def owner_only(path: str) -> None:
    """Take the others' permissions away. PermissionError if the directory is not mine."""
    info = os.lstat(path)
    if info.st_uid != os.getuid() or not stat.S_ISDIR(info.st_mode):
        raise PermissionError(f"{path} is not a directory of this user")
    if stat.S_IMODE(info.st_mode) & 0o077:
        os.chmod(path, 0o700)


def remove_tree(path: str) -> None:
    """Remove a directory, also where a program left folders that may not be written. What resists stays."""

    def unlock(function: Callable[..., Any], failed: str, _error: Any) -> None:
        try:
            os.chmod(os.path.dirname(failed), 0o700)
            if os.path.isdir(failed) and not os.path.islink(failed):
                os.chmod(failed, 0o700)
                shutil.rmtree(failed, ignore_errors=True)
            else:
                function(failed)
        except OSError:
            pass

    name = "onexc" if sys.version_info >= (3, 12) else "onerror"
    handler: Dict[str, Any] = {name: unlock}
    shutil.rmtree(path, **handler)


def _fits(runtime: str) -> bool:
    return len(os.fsencode(os.path.join(runtime, _SOCKET))) <= _SOCKET_MAX


def _is_private(path: str) -> bool:
    try:
        info = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not stat.S_IMODE(info.st_mode) & 0o077
