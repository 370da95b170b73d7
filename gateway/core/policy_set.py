"""Policies that were checked together, and those of them that a question is put to: parsed once, kept.

Cedar works out each policy that it is given, whatever it is about, and reads each attribute of each thing. So it gets
the policies that speak of the action and the kind of thing, less those whose guards say that they are about others, and
the attributes that any of these names.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

import cedarpy

from gateway.core.policy_file import Rule
from gateway.core.policy_guard import Fact
from gateway.model.limit import Limit
from gateway.model.policy import About, Action

KEPT = 2000
"""Selections of policies that are kept, for each action and kind of thing."""


class Chosen(NamedTuple):
    """Policies in Cedar's form. `words`: all of theirs, among which are the attributes that they look at."""

    cedar: cedarpy.PolicySet
    words: frozenset[str]


class Part:
    """The policies that speak of one action with one kind of thing."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._guarded = [rule for rule in rules if rule.guards]
        self._looked_at = frozenset(fact for rule in self._guarded for guard in rule.guards for fact in guard.facts)
        self._kept: dict[frozenset[Fact], Chosen] = {}
        self._same: dict[Hashable, Chosen] = {}

    @cached_property
    def whole(self) -> Chosen:
        """All of them."""
        return _chosen(self._rules)

    def named(self, position: str) -> Rule:
        """The policy that Cedar calls `policy7` when it has been given the whole: it counts them."""
        return self._rules[int(position.removeprefix("policy"))]

    def chosen(self, facts: frozenset[Fact]) -> Chosen:
        """Those that may apply where this is so. Cedar's own names for them say nothing."""
        seen = facts & self._looked_at
        found = self._kept.get(seen)
        if found is None:
            if len(self._kept) >= KEPT:
                self._kept.clear()
                self._same.clear()
            applying = [rule for rule in self._guarded if all(guard.holds(facts) for guard in rule.guards)]
            key = tuple(rule.id for rule in applying)
            found = self._same.get(key) or self._same.setdefault(key, self._with(applying))
            self._kept[seen] = found
        return found

    @cached_property
    def _always(self) -> Chosen:
        return _chosen([rule for rule in self._rules if not rule.guards])

    def _with(self, rules: Sequence[Rule]) -> Chosen:
        """The policies without guards, which are parsed once, and these."""
        if not rules:
            return self._always
        words = self._always.words.union(*(rule.words for rule in rules))
        return Chosen(self._always.cedar.with_added_str(_text(rules)), words)


@dataclass(frozen=True)
class PolicySet:
    """The policies and limits in force. `number` counts the sets of this process."""

    number: int
    loaded_at: datetime
    rules: Mapping[str, Rule]
    limits: Mapping[str, Limit]
    parts: dict[tuple[Action, About], Part] = field(repr=False, default_factory=dict)

    def part(self, action: Action, about: About) -> Part:
        """The policies that speak of this."""
        found = self.parts.get((action, about))
        if found is None:
            found = Part([rule for rule in self.rules.values() if rule.concerns(action, about)])
            self.parts[action, about] = found
        return found


def _chosen(rules: Sequence[Rule]) -> Chosen:
    words = frozenset[str]().union(*(rule.words for rule in rules))
    return Chosen(cedarpy.PolicySet.from_str(_text(rules)), words)


def _text(rules: Sequence[Rule]) -> str:
    return "\n".join(rule.text for rule in rules)
