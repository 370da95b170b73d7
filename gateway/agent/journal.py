"""The agent's own lines in the job's log: a time, `sluice`, and what happened.

Never a secret, never the environment.
"""

from __future__ import annotations

import contextlib
import os
import time


class Journal:
    """Writes whole lines to a file descriptor, which others may write to as well."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def say(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f"{stamp} sluice {' '.join(text.split())}\n"
        with contextlib.suppress(OSError):  # a full disk must not end a service that runs
            os.write(self._descriptor, line.encode("utf-8", "backslashreplace"))
