"""One attempt of a session is run by one job: the first that begins it claims it in the session directory.

A gateway that lost the answer to a submit looks the job up before it sends another; should it be wrong all the same
(a message that a frozen controller takes minutes later), two jobs of one attempt exist, and only one may run.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Optional

_PATIENCE = 5.0


def take(path: str, job_id: str) -> Optional[str]:
    """None if the attempt is this job's, also from a run before a requeue; else the number of the job that has it."""
    draft = f"{path}.{job_id}"
    _write(draft, job_id, os.O_TRUNC)
    try:
        os.link(draft, path)  # with its text or not at all, and only if there is none; over NFS, too
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        with suppress(FileExistsError):
            _write(path, job_id, os.O_EXCL)
    finally:
        os.unlink(draft)
    holder = _read(path)
    return None if holder == job_id else holder


def _write(path: str, text: str, how: int) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | how, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(text)


def _read(path: str) -> str:
    """Who has it. Only without hard links can there be a moment without a text."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
        if text or time.monotonic() > deadline:
            return text
        time.sleep(0.1)
