"""What the agent says of its job in the job's Slurm comment.

    sluice/1 ready tcp=10.77.0.11:41231 sha256=<64 hex>   the service answers at this relay, with this certificate
    sluice/1 ended reason=service_exited code=1             the agent ended the job, and why

Only the job's owner or an operator can write the comment, so the fingerprint vouches for the job.
"""

import re
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

EndReason = Literal[
    "finished",
    "stopped",
    "image_missing",
    "start_failed",
    "service_exited",
    "probe_timeout",
    "time_limit",
    "agent_error",
]

MAX_PORT = 65535
_READY = re.compile(r"sluice/1 ready tcp=(\[[0-9a-f:]+\]|[0-9A-Za-z.-]+):(\d{1,5}) sha256=([0-9a-f]{64})")
_ENDED = re.compile(r"sluice/1 ended reason=([a-z_]+) code=(\d{1,3})")
_REASONS = frozenset(get_args(EndReason))


class Endpoint(BaseModel):
    """Where a ready job's relay listens, and the SHA-256 of the certificate (DER, hex) that it must show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: int
    fingerprint: str


class Ended(BaseModel):
    """Why the agent ended its job, and with which exit code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: EndReason
    code: int


def parse(comment: str) -> Endpoint | Ended | None:
    """Read a job comment; None for anything that is not an announcement of ours."""
    if found := _READY.fullmatch(comment.strip()):
        port = int(found[2])
        return Endpoint(host=found[1].strip("[]"), port=port, fingerprint=found[3]) if 0 < port <= MAX_PORT else None
    if (found := _ENDED.fullmatch(comment.strip())) and found[1] in _REASONS:
        return Ended.model_validate({"reason": found[1], "code": int(found[2])})
    return None
