"""Why the agent ends a job: words for the job comment, and exit codes."""

from __future__ import annotations

#: Exit codes where the payload's own cannot be used (see sysexits.h for the family).
IMAGE_MISSING = 66
PROBE_TIMEOUT = 69
SERVICE_ENDED = 70  # a service that ended by itself with 0 has failed all the same
AGENT_ERROR = 71
START_FAILED = 72
DUPLICATE = 75
TIME_LIMIT = 124
TERMINATED = 143  # 128 + SIGTERM


class JobEnds(Exception):
    """The job cannot go on. `reason` is a word of the announcement, `code` the exit code of the job."""

    def __init__(self, reason: str, code: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code


def exit_code(returncode: int) -> int:
    """A process's return code as a shell gives it: 128 + n after signal n."""
    return 128 - returncode if returncode < 0 else returncode
