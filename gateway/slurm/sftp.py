"""A cluster's files by SFTP, as the user."""

import asyncio
import posixpath
import secrets
import stat as modes
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final

import asyncssh

from gateway.core.ports import FileStat
from gateway.errors import FilesUnavailable, Forbidden, Invalid, NotFound
from gateway.slurm.ssh import SshConnections
from gateway.slurm.ssh_login import Unreachable

_CHUNK: Final = 1 << 18
_GONE: Final = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)
_NEW_FOLDER: Final = 0o700


class SftpFiles:
    """The Files port. `timeout` (seconds) is for one answer of the server, not for a whole transfer."""

    def __init__(self, connections: SshConnections, *, timeout: float = 60.0) -> None:
        self._connections = connections
        self._timeout = timeout

    async def close(self) -> None:
        await self._connections.close()

    async def read(self, user: str, path: str, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        async with self._client(user, "read", path) as (client, where), client.open(where, "rb") as file:
            if offset < 0:
                size = (await file.stat()).size or 0
                offset = max(0, size + offset)
            parts: list[bytes] = []
            left = limit
            while left > 0:
                async with asyncio.timeout(self._timeout):  # wait_for may lose a cancel that comes with an answer
                    part = await file.read(min(left, _CHUNK), offset)
                if not part:
                    break
                data = part if isinstance(part, bytes) else part.encode()
                parts.append(data)
                offset += len(data)
                left -= len(data)
            return b"".join(parts)

    async def write(self, user: str, path: str, data: bytes, *, mode: int = 0o600) -> None:
        async with (
            self._client(user, "write", path) as (client, where),
            self._replacing(client, where, mode) as new,
            client.open(new, "xb", asyncssh.SFTPAttrs(permissions=mode)) as file,
        ):
            for start in range(0, len(data), _CHUNK):
                async with asyncio.timeout(self._timeout):
                    await file.write(data[start : start + _CHUNK], start)

    async def upload(self, user: str, local: str, path: str, *, mode: int = 0o644) -> None:
        async with (
            self._client(user, "upload", path) as (client, where),
            self._replacing(client, where, mode) as new,
        ):
            async with client.open(new, "xb", asyncssh.SFTPAttrs(permissions=0o600)):
                pass  # private until it is whole
            await client.put(local, new)

    async def stat(self, user: str, path: str) -> FileStat | None:
        async with self._client(user, "stat", path) as (client, where):
            try:
                return _stat(path, await client.stat(where))
            except _GONE:
                return None

    async def list(self, user: str, path: str) -> Sequence[FileStat]:
        async with self._client(user, "list", path) as (client, where):
            found = []
            async for entry in client.scandir(where):
                name = entry.filename if isinstance(entry.filename, str) else entry.filename.decode()
                if name not in {".", ".."}:
                    found.append(_stat(posixpath.join(path, name), entry.attrs))
            return sorted(found, key=lambda entry: entry.path)

    async def remove(self, user: str, path: str) -> None:
        async with self._client(user, "remove", path) as (client, where):
            try:
                attrs = await client.lstat(where)
                if _is_folder(attrs):
                    await client.rmtree(where)  # it does not follow links
                else:
                    await client.remove(where)
            except _GONE:
                return

    @asynccontextmanager
    async def _client(self, user: str, what: str, path: str) -> AsyncIterator[tuple[asyncssh.SFTPClient, str]]:
        """The user's SFTP client and the path as the server wants it; its failures as ours."""
        where = remote_path(path)
        at = f"{user}@{self._connections}:{path}"
        try:
            async with self._connections.sftp(user) as client:
                yield client, where
        except Unreachable as error:
            raise FilesUnavailable(f"cannot {what} {at}: {error}") from error
        except _GONE as error:
            raise NotFound(f"there is no {at}") from error
        except asyncssh.SFTPPermissionDenied as error:
            raise Forbidden(f"{user} may not {what} {at}") from error
        except (asyncssh.SFTPError, TimeoutError) as error:
            reason = getattr(error, "reason", "") or "no answer in time"
            raise FilesUnavailable(f"cannot {what} {at}: {reason}") from error

    @asynccontextmanager
    async def _replacing(self, client: asyncssh.SFTPClient, where: str, mode: int) -> AsyncIterator[str]:
        """A new name beside the file; renamed over it once everything was written."""
        folder, name = posixpath.split(where)
        if folder:
            await _make_folders(client, folder)
        new = posixpath.join(folder, f".{name}.{secrets.token_hex(6)}.new")
        try:
            yield new
            await client.chmod(new, mode)
            await client.posix_rename(new, where)
        except BaseException:
            with suppress(asyncssh.Error, OSError):
                await client.remove(new)
            raise


async def _make_folders(client: asyncssh.SFTPClient, folder: str) -> None:
    missing: list[str] = []
    while folder and folder != "/" and not await client.exists(folder):
        missing.append(folder)
        folder = posixpath.dirname(folder)
    for part in reversed(missing):
        try:
            await client.mkdir(part, asyncssh.SFTPAttrs(permissions=_NEW_FOLDER))
        except asyncssh.SFTPError:
            if not await client.isdir(part):  # made by another meanwhile is as good
                raise


def remote_path(path: str) -> str:
    """A path for SFTP: relative ones start at the home folder, and so do those with `~/`."""
    if "\0" in path:
        raise Invalid("a path holds a NUL character")
    if path == "~" or not path:
        return "."
    return path.removeprefix("~/").lstrip("/") or "." if path.startswith("~/") else path


def _stat(path: str, attrs: asyncssh.SFTPAttrs) -> FileStat:
    return FileStat(
        path=path,
        size=attrs.size or 0,
        mode=modes.S_IMODE(attrs.permissions or 0),
        modified=datetime.fromtimestamp(attrs.mtime or 0, UTC),
        directory=_is_folder(attrs),
    )


def _is_folder(attrs: asyncssh.SFTPAttrs) -> bool:
    return attrs.type == asyncssh.FILEXFER_TYPE_DIRECTORY or modes.S_ISDIR(attrs.permissions or 0)
