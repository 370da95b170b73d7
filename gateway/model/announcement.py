"""What the agent says of its job in the job's Slurm comment.

    sluice/1@0a1b2c3d                                             the gateway submitted it, its agent has not spoken
    sluice/1@0a1b2c3d secrets tcp=10.77.0.11:41231 sha256=<64 hex>  it waits there for secrets that no file brought
    sluice/1@0a1b2c3d running tcp=10.77.0.11:41231 sha256=<64 hex>  the program runs; its agent is there for terminals
    sluice/1@0a1b2c3d ready tcp=10.77.0.11:41231 sha256=<64 hex>  the service is there, with this certificate
    sluice/1@0a1b2c3d ended reason=service_exited code=1          the agent ended the job, and why
    sluice/1@0a1b2c3d ended reason=duplicate code=75 holder=123   job 123 had begun this attempt before

What stands after `@` is the gateway's own name (`instance`): several gateways may share one Slurm. It may be missing.
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
    "duplicate",
]

MAX_PORT = 65535
_WHOSE = r"sluice/1(?:@([0-9a-z]{1,32}))?"
_ANY = re.compile(_WHOSE + r"(?: .*)?", re.DOTALL)
_WHERE = r" tcp=(\[[0-9a-f:]+\]|[0-9A-Za-z.-]+):(\d{1,5}) sha256=([0-9a-f]{64})"
_THERE = re.compile(_WHOSE + r" (ready|running|secrets)" + _WHERE)
_ENDED = re.compile(_WHOSE + r" ended reason=([a-z_]+) code=(\d{1,3})(?: holder=(\d{1,10}))?")
_REASONS = frozenset(get_args(EndReason))


class Endpoint(BaseModel):
    """Where a ready job's relay listens, and the SHA-256 of the certificate (DER, hex) that it must show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: int
    fingerprint: str


class Awaiting(BaseModel):
    """Where an agent waits for the values of secrets, before it starts anything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: Endpoint


class Running(BaseModel):
    """Where the agent of a job answers whose program runs: a batch job's, or a service's that is not ready yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: Endpoint


class Ended(BaseModel):
    """Why the agent ended its job, and with which exit code. `holder` is the job that a duplicate makes way for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: EndReason
    code: int
    holder: int | None = None


def mark(instance: str) -> str:
    """What a job's comment says from its submission on."""
    return f"sluice/1@{instance}"


def whose(comment: str) -> str | None:
    """The gateway that submitted the job, as its comment says; None if it does not say."""
    found = _ANY.fullmatch(comment.strip())
    return found[1] if found else None


def parse(comment: str) -> Endpoint | Running | Awaiting | Ended | None:
    """Read a job comment; None for anything that is not an announcement of ours."""
    if found := _THERE.fullmatch(comment.strip()):
        _, word, host, number, fingerprint = found.groups()
        if not 0 < (port := int(number)) <= MAX_PORT:
            return None
        endpoint = Endpoint(host=host.strip("[]"), port=port, fingerprint=fingerprint)
        match word:
            case "ready":
                return endpoint
            case "running":
                return Running(endpoint=endpoint)
            case _:
                return Awaiting(endpoint=endpoint)
    if (found := _ENDED.fullmatch(comment.strip())) and found[2] in _REASONS:
        holder = int(found[4]) if found[4] else None
        return Ended.model_validate({"reason": found[2], "code": int(found[3]), "holder": holder})
    return None
