"""Files that are there whole or not at all, and outlive a crash of the machine once they are written."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def replace(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file in place of the one before: who reads sees either. `mode` holds from the first moment on."""
    with _written(path, data, mode) as temporary:
        temporary.replace(path)


def create(path: Path, data: bytes) -> None:
    """Write a file for its owner alone, unless there is one: unlike `replace` this never takes another's place."""
    with _written(path, data, 0o600) as temporary, suppress(FileExistsError):
        path.hardlink_to(temporary)


@contextmanager
def _written(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """The data, under another name in the same folder. Nothing of that name is left."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # else the name may be gone after a crash
    finally:
        os.close(folder)
