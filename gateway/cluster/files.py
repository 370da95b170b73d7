"""Where things lie, locks that the kernel gives back, and writes that are whole or not there."""

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import ClusterError

Progress = Callable[[str, str], None]
"""Called with a stage ("packages") and a detail ("120 of 310", may be empty), often."""


def silent(_stage: str, _detail: str) -> None:
    """The progress of a caller who does not look."""


def clusters_dir() -> Path:
    return Path(os.environ.get("SLUICE_CLUSTER_DIR") or "/var/lib/sluice/clusters").absolute()


def cache_dir() -> Path:
    return Path(os.environ.get("SLUICE_CLUSTER_CACHE") or "/var/cache/sluice").absolute()


@contextmanager
def locked(folder: Path, progress: Progress = silent, *, create: bool = True, timeout_s: float = 600) -> Iterator[bool]:
    """Hold the folder for this process alone; yields False where it does not exist and is not to be made.

    The lock is on the directory itself, so it leaves no file behind, and the kernel takes it back when we are killed.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, FileExistsError):
            if not create:
                yield False
                return
            if time.monotonic() > deadline or _in_the_way(folder):
                raise
            continue  # it went meanwhile, or the folder above it did: `down` of another cluster takes that along
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ClusterError(
                            f"{folder} is held by another process for {timeout_s:.0f} s",
                            hint="another `sluice cluster up` or `down` is at work there; wait for it or end it",
                        ) from None
                    progress("waiting for another sluice cluster command", "")
                    time.sleep(0.1)
            if _same(folder, fd):
                yield True
                return
        finally:
            os.close(fd)


def busy(folder: Path) -> bool:
    """Whether a command holds this folder just now."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _in_the_way(folder: Path) -> bool:
    """Whether something of this name is there that is no folder."""
    try:
        return not stat.S_ISDIR(folder.lstat().st_mode)
    except FileNotFoundError:
        return False


def _same(folder: Path, fd: int) -> bool:
    """Whether the folder that we hold is still the one of that name: `down` may have removed it while we waited."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def write_whole(path: Path, text: str | bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Write so that a reader, or a later run after a kill, sees the old file or the new one and nothing between."""
    temporary = path.with_name(f".{path.name}.new")
    data = text.encode() if isinstance(text, str) else text
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        os.fchmod(fd, mode)
        if owner:
            os.fchown(fd, *owner)
    temporary.replace(path)


def remove_tree(path: Path) -> None:
    """Remove whatever is there; a process that is just ending may still be writing, so it tries more than once."""
    deadline = time.monotonic() + 30
    while path.exists():
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            if time.monotonic() > deadline:
                raise ClusterError(f"cannot remove {path}: {error}") from error
            time.sleep(0.05)
