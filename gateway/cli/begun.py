"""Batches that `sluice batch run` began and did not see the end of: the same command goes on with them.

Beside the file and what was asked stands the key under which the gateway knows the batch. It is there before the
gateway is asked, and goes when the results have been handed over; so a command that was killed at any moment in
between, and is given again, asks nothing twice.
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from gateway import durable

KEPT_DAYS = 30


class Begun(NamedTuple):
    """`task` is the batch's id, once the gateway has told it."""

    path: Path
    key: str
    task: str | None = None

    def known_as(self, task: str) -> Self:
        """The gateway has it, under this id."""
        return self._replace(task=task).saved()

    def anew(self) -> Self:
        """Another batch of the same lines."""
        return self._replace(key=secrets.token_hex(16), task=None).saved()

    def saved(self) -> Self:
        """As it is when this returns, on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        durable.replace(self.path, json.dumps({"key": self.key, "task": self.task}).encode())
        return self


def begin(prompts: Path, words: Sequence[object]) -> Begun:
    """The batch of these lines, asked for in these words: one that was begun before, or a new one."""
    digest = hashlib.sha256(repr(tuple(words)).encode())
    with prompts.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    path = _folder() / digest.hexdigest()
    _sweep()
    return _read(path) or Begun(path, "").anew()


def forget(task: str) -> None:
    """Its results were handed over, or are not wanted any more."""
    for path in _files():
        found = _read(path)
        if found is not None and found.task == task:
            path.unlink(missing_ok=True)


def _read(path: Path) -> Begun | None:
    try:
        said = json.loads(path.read_text())
        return Begun(path, str(said["key"]), said["task"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sweep() -> None:
    oldest = time.time() - KEPT_DAYS * 86400
    for path in _files():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()


def _files() -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from _folder().iterdir()


def _folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "sluice/batches"
