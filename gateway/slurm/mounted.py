"""A cluster's files where this machine has them mounted: single-user mode, or the same tree below a folder."""

import asyncio
import errno
import os
import pwd
import secrets
import shutil
import stat as modes
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from gateway.core.ports import FileStat
from gateway.errors import FilesUnavailable, Forbidden, Invalid, NotFound

T = TypeVar("T")

_CHUNK: Final = 1 << 20
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})


class MountedFiles:
    """The Files port on this machine's own file system, as the person who runs the gateway.

    With `root`, the cluster's `/` is that folder: a path that would leave it, also by a link, is refused. `home` is
    the home folder as the cluster names it; unset, it is the person's own.
    """

    def __init__(self, *, root: Path | None = None, home: str | None = None, user: str | None = None) -> None:
        account = pwd.getpwuid(os.getuid())
        self._user = user or account.pw_name
        self._home = home or account.pw_dir
        self._root = root.resolve() if root is not None else None

    async def close(self) -> None:
        return

    async def read(self, user: str, path: str, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        def work(where: Path) -> bytes:
            with where.open("rb") as file:
                if offset < 0:
                    file.seek(max(0, file.seek(0, os.SEEK_END) + offset))
                else:
                    file.seek(offset)
                return file.read(limit)

        return await self._do("read", user, path, work)

    async def write(self, user: str, path: str, data: bytes, *, mode: int = 0o600) -> None:
        def work(where: Path) -> None:
            def fill(descriptor: int) -> None:
                with os.fdopen(descriptor, "wb", closefd=False) as file:
                    file.write(data)

            _replace(where, mode, fill)

        await self._do("write", user, path, work)

    async def upload(self, user: str, local: str, path: str, *, mode: int = 0o644) -> None:
        def work(where: Path) -> None:
            def fill(descriptor: int) -> None:
                with Path(local).open("rb") as source, os.fdopen(descriptor, "wb", closefd=False) as file:
                    shutil.copyfileobj(source, file, _CHUNK)

            _replace(where, mode, fill)

        await self._do("upload", user, path, work)

    async def stat(self, user: str, path: str) -> FileStat | None:
        def work(where: Path) -> FileStat | None:
            try:
                return _stat(path, where.stat())
            except OSError as error:
                if error.errno in _GONE:
                    return None
                raise

        return await self._do("stat", user, path, work)

    async def list(self, user: str, path: str) -> Sequence[FileStat]:
        def work(where: Path) -> Sequence[FileStat]:
            found = []
            with os.scandir(where) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # removed while we read
                        about = entry.stat(follow_symlinks=False)
                        found.append(_stat(os.path.join(path, entry.name), about))  # noqa: PTH118  keeps "./"
            return sorted(found, key=lambda entry: entry.path)

        return await self._do("list", user, path, work)

    async def remove(self, user: str, path: str) -> None:
        def work(where: Path) -> None:
            try:
                if modes.S_ISDIR(where.lstat().st_mode):
                    shutil.rmtree(where)  # it does not follow links
                else:
                    where.unlink()
            except OSError as error:
                if error.errno not in _GONE:
                    raise

        await self._do("remove", user, path, work, follow=False)

    async def _do(self, what: str, user: str, path: str, work: Callable[[Path], T], *, follow: bool = True) -> T:
        if user != self._user:
            raise Forbidden(
                f"this gateway runs as {self._user} and touches no files as {user}",
                hint='For other users set files = "sftp".',
            )
        try:
            return await asyncio.to_thread(lambda: work(self._place(path, follow=follow)))
        except OSError as error:
            if error.errno in _GONE:
                raise NotFound(f"there is no {path}") from error
            if error.errno in _DENIED:
                raise Forbidden(f"{user} may not {what} {path}") from error
            raise FilesUnavailable(f"cannot {what} {path}: {error.strerror or error}") from error

    def _place(self, path: str, *, follow: bool) -> Path:
        """Where the path is on this machine."""
        if "\0" in path:
            raise Invalid("a path holds a NUL character")
        relative = path[2:] if path.startswith("~/") else "" if path == "~" else path
        place = Path(self._home, relative)
        if self._root is None:
            return place
        inside = self._root / str(place).lstrip("/")
        resolved = inside.resolve() if follow else inside.parent.resolve() / inside.name
        if inside.name == ".." or not resolved.is_relative_to(self._root):
            raise Forbidden(f"{path} leads out of {self._root}")
        return resolved


def _replace(where: Path, mode: int, fill: Callable[[int], None]) -> None:
    """Fill a new file beside it, then rename: nobody ever sees half of it, or sees it with other rights."""
    missing = []
    folder = where.parent
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for part in reversed(missing):
        part.mkdir(mode=0o700, exist_ok=True)
    new = where.with_name(f".{where.name}.{secrets.token_hex(6)}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            fill(descriptor)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.replace(where)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _stat(path: str, about: os.stat_result) -> FileStat:
    return FileStat(
        path=path,
        size=about.st_size,
        mode=modes.S_IMODE(about.st_mode),
        modified=datetime.fromtimestamp(about.st_mtime, UTC),
        directory=modes.S_ISDIR(about.st_mode),
    )
