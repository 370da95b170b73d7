"""Decisions that every request of the data plane asks for, from memory.

A decision is good for one caller as they are, one session as it is, one set of policies, and a quarter of an hour of
the site's time: hours and weekdays, which policies may look at, begin with a quarter in every time zone there is.
"""

from collections.abc import Callable, Hashable
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from gateway.core import policy_question
from gateway.core.policies import Policies
from gateway.model.policy import Action, Decision, Subject
from gateway.model.principal import Principal

KEPT = 50_000
QUARTER = 900


class _Kept(NamedTuple):
    decision: Decision
    subject: Subject
    number: int
    quarter: int


class Verdicts:
    """What the policies say of callers and sessions. `clock` gives the time, `timezone` is the policies'."""

    def __init__(self, policies: Policies, clock: Callable[[], datetime], timezone: str) -> None:
        self._policies, self._clock, self._zone = policies, clock, ZoneInfo(timezone)
        self._kept: dict[Hashable, _Kept] = {}

    def of(self, caller: Principal, action: Action, subject: Subject) -> Decision:
        """The decision; worked out where it is not known. A subject that changed must be another object."""
        number, now = self._policies.current.number, self._clock()
        quarter = int(now.timestamp()) // QUARTER
        key = action, subject.id, policy_question.asking_key(caller)
        kept = self._kept.get(key)
        if kept is not None and kept.subject is subject and kept.number == number and kept.quarter == quarter:
            return kept.decision
        decision = self._policies.decide(caller, action, subject, now.astimezone(self._zone))
        if len(self._kept) >= KEPT:
            self._kept.clear()
        self._kept[key] = _Kept(decision, subject, number, quarter)
        return decision
