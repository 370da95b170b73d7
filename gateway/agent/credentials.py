"""The secrets of a job: a file staged by the gateway, read and deleted, or values pushed over the control channel."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from contextlib import suppress
from typing import Any, Dict, List, Sequence


class Credentials:
    """The values of `names`, as they come. Nothing here is ever written to a log."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._values: Dict[str, str] = {}
        self._complete = asyncio.Event()
        self._used = False
        if not self._names:
            self._complete.set()

    @property
    def missing(self) -> List[str]:
        return [name for name in self._names if name not in self._values]

    def take_file(self, path: str, *, keep: bool = False) -> bool:
        """Read the staged file and delete it; False if there is none. ValueError if it is not as it has to be.

        With `keep` a file that is as it has to be stays, for a next run of a job that Slurm may requeue.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        with open(descriptor, encoding="utf-8") as file:
            info = os.fstat(descriptor)
            private = info.st_uid == os.getuid() and not stat.S_IMODE(info.st_mode) & 0o077
            if not (keep and private):
                os.unlink(path)
            if not private:
                raise ValueError(f"{path} could be read or written by others: not used, and deleted")
            try:
                values = json.load(file)
            except ValueError:
                raise ValueError(f"{path} is not JSON") from None
        self.add(values)
        return True

    def forget_file(self, path: str) -> None:
        """Delete a staged file that was kept."""
        if self._names:
            with suppress(OSError):
                os.unlink(path)

    def add(self, values: Any) -> None:
        """Take pushed values; unknown names are left out. ValueError if they are no names with texts, or come late."""
        if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            raise ValueError('secrets are {"NAME": "value", ...}')
        if any("\0" in value for value in values.values()):
            raise ValueError("a secret cannot hold a NUL character")
        if self._used:
            raise ValueError("the program has been started already")
        self._values.update({name: value for name, value in values.items() if name in self._names})
        if not self.missing:
            self._complete.set()

    async def wait(self) -> None:
        await self._complete.wait()

    def hand_over(self) -> Dict[str, str]:
        """All values, for the payload's environment; nothing more is taken after it."""
        self._used = True
        values, self._values = self._values, {}
        return values
