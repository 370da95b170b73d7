"""Decisions that every request of the data plane asks for, from memory.

A decision is good for one caller as they are, one session as it is, one set of policies, and a quarter of an hour of
the site's time: hours and weekdays, which policies may look at, begin with a quarter in every time zone there is.
"""

from collections.abc import Callable, Hashable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from gateway.core import policy_question
from gateway.core.policies import Policies
from gateway.model.policy import Action, Decision, Subject
from gateway.model.principal import Principal

KEPT = 50_000
QUARTER = timedelta(minutes=15)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Era(NamedTuple):
    """One set of policies, by its number, in one quarter of an hour."""

    number: int
    since: datetime
    until: datetime


class _Kept(NamedTuple):
    """A decision, and what it is good for. It holds on to the objects, so that no others get their ids."""

    decision: Decision
    caller: Principal | None
    subject: Subject
    era: object

    def good(self, caller: Principal | None, subject: Subject, era: object) -> bool:
        return self.caller is caller and self.subject is subject and self.era is era


class Verdicts:
    """What the policies say of callers and sessions. `clock` gives the time, `timezone` is the policies'."""

    def __init__(self, policies: Policies, clock: Callable[[], datetime], timezone: str) -> None:
        self._policies, self._clock, self._zone = policies, clock, ZoneInfo(timezone)
        self._kept: dict[Hashable, _Kept] = {}
        self._near: dict[tuple[int, int, Action], _Kept] = {}
        self._era = _Era(-1, _EPOCH, _EPOCH)

    def era(self) -> object:
        """The same object for as long as no decision changes that was made of the same caller and session."""
        number, now, era = self._policies.current.number, self._clock(), self._era
        if era.number != number or not era.since <= now < era.until:
            since = now - (now - _EPOCH) % QUARTER
            era = self._era = _Era(number, since, since + QUARTER)
        return era

    def of(self, caller: Principal, action: Action, subject: Subject) -> Decision:
        """The decision; worked out where it is not known. A subject that changed must be another object."""
        era, near = self.era(), (id(caller), id(subject), action)
        kept = self._near.get(near)
        if kept is not None and kept.good(caller, subject, era):
            return kept.decision  # the same caller and session as before, objects and all: most requests
        key = action, subject.id, policy_question.asking_key(caller)
        known = self._kept.get(key)
        if known is None or not known.good(None, subject, era):
            decision = self._policies.decide(caller, action, subject, self._clock().astimezone(self._zone))
            if len(self._kept) >= KEPT:
                self._kept.clear()
            known = self._kept[key] = _Kept(decision, None, subject, era)
        if len(self._near) >= KEPT:
            self._near.clear()
        self._near[near] = known._replace(caller=caller)
        return known.decision
