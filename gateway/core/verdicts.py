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
    """A decision, and what it is good for. It holds on to the objects, so that no others get their ids."""

    decision: Decision
    caller: Principal | None
    subject: Subject
    number: int
    quarter: int

    def good(self, caller: Principal | None, subject: Subject, number: int, quarter: int) -> bool:
        same = self.caller is caller and self.subject is subject
        return same and self.number == number and self.quarter == quarter


class Verdicts:
    """What the policies say of callers and sessions. `clock` gives the time, `timezone` is the policies'."""

    def __init__(self, policies: Policies, clock: Callable[[], datetime], timezone: str) -> None:
        self._policies, self._clock, self._zone = policies, clock, ZoneInfo(timezone)
        self._kept: dict[Hashable, _Kept] = {}
        self._near: dict[tuple[int, int, Action], _Kept] = {}

    def of(self, caller: Principal, action: Action, subject: Subject) -> Decision:
        """The decision; worked out where it is not known. A subject that changed must be another object."""
        number, now = self._policies.current.number, self._clock()
        quarter = int(now.timestamp()) // QUARTER
        near = id(caller), id(subject), action
        kept = self._near.get(near)
        if kept is not None and kept.good(caller, subject, number, quarter):
            return kept.decision  # the same caller and session as before, objects and all: most requests
        key = action, subject.id, policy_question.asking_key(caller)
        known = self._kept.get(key)
        if known is None or not known.good(None, subject, number, quarter):
            decision = self._policies.decide(caller, action, subject, now.astimezone(self._zone))
            if len(self._kept) >= KEPT:
                self._kept.clear()
            known = self._kept[key] = _Kept(decision, None, subject, number, quarter)
        if len(self._near) >= KEPT:
            self._near.clear()
        self._near[near] = known._replace(caller=caller)
        return known.decision
