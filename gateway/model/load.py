"""How busy the data plane is with a session: what it reports, and what several of its processes report together."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

#: A process of the data plane that has said nothing for so long is gone, and with it what it had in flight.
SILENT_AFTER = timedelta(seconds=30)


class Load(BaseModel):
    """What one process (`writer`) had to do with a session at a moment; `writer` is empty in a sum of several.

    `waiting` requests, and lines of batches, have no replica to go to yet. `by_attempt`: requests in flight by the
    job's attempt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    session_id: str
    writer: str
    in_flight: int = 0
    waiting: int = 0
    websockets: int = 0
    last_request_at: datetime | None = None
    at: datetime
    by_attempt: dict[int, int] = {}

    @property
    def used(self) -> bool:
        """Whether somebody uses the session at this moment."""
        return bool(self.in_flight or self.waiting or self.websockets)


def total(reports: Iterable[Load], now: datetime) -> dict[str, Load]:
    """The reports summed up by session. Of a process that is gone only the time of its last request stays."""
    found: dict[str, Load] = {}
    for report in reports:
        one = report if now - report.at < SILENT_AFTER else _gone(report)
        before = found.get(one.session_id)
        found[one.session_id] = one.model_copy(update={"writer": ""}) if before is None else _sum(before, one)
    return found


def _gone(report: Load) -> Load:
    gone = {"in_flight": 0, "waiting": 0, "websockets": 0, "by_attempt": {}}
    return report.model_copy(update={**gone, "last_request_at": report.last_request_at or report.at})


def _sum(one: Load, other: Load) -> Load:
    moments = [at for at in (one.last_request_at, other.last_request_at) if at is not None]
    attempts = one.by_attempt.keys() | other.by_attempt.keys()
    return Load(
        session_id=one.session_id,
        writer="",
        in_flight=one.in_flight + other.in_flight,
        waiting=one.waiting + other.waiting,
        websockets=one.websockets + other.websockets,
        last_request_at=max(moments, default=None),
        at=max(one.at, other.at),
        by_attempt={key: one.by_attempt.get(key, 0) + other.by_attempt.get(key, 0) for key in sorted(attempts)},
    )
