"""The policies in force: the shipped ones and the site's, and the decision itself.

Files that change are read again; a broken change keeps the old set.
What a decision needs of the set is parsed once (core/policy_set.py); what it costs is told by benchmarks/policy.py.
"""

import re
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import cedarpy
import structlog

from gateway.core import policy_file, policy_guard, policy_question
from gateway.core.policy_file import PolicyFile, Rule
from gateway.core.policy_set import Chosen, PolicySet
from gateway.data import folder
from gateway.errors import PolicyDenied, PolicyInvalid
from gateway.model import limit as limits_of
from gateway.model.policy import About, Action, Decision, Reason, Subject, Thing
from gateway.model.principal import Principal

log = structlog.get_logger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks whether a file has changed."""
KEPT = 2000
"""Callers, each in a project, that are kept in Cedar's form."""
SCHEMA = "schema.cedarschema"
_Stamp = tuple[int, int, int]
_POLICY = re.compile(r"`(policy\d+)`")
#: What SQL decides, which asks no policy.
ROLES_ALONE = frozenset({"read"})
_VERBS: Mapping[Action, str] = {
    "create": "start this session",
    "stop": "stop this session",
    "delete": "delete this session",
    "read": "read about this session",
    "logs": "read the logs of this session",
    "script": "read the script of this session",
    "call": "ask the model of this session",
    "open": "open the pages of this session",
    "see": "see this",
    "set": "set this",
    "remove": "remove this",
    "use": "use this",
    "enter": "go into the job of this session",
    "scale": "scale this session",
    "extend": "extend this session",
    "update": "update this session",
    "resume": "resume this session",
    "user.create": "make this user",
    "user.change": "change this user",
    "user.remove": "remove this user",
    "user.take_on": "take this user on",
    "user.see_off": "see this user off",
    "project.create": "make this project",
    "project.change": "change this project",
    "project.archive": "archive this project",
    "member.set": "take somebody into this project",
    "member.remove": "let somebody out of this project",
    "token.create": "make this token",
    "token.revoke": "revoke this token",
}


def schema_text() -> str:
    """The shipped schema: what policies can speak of."""
    return (folder("policies") / SCHEMA).read_text()


class Policies:
    """The shipped policies with those of the site's folders. PolicyInvalid if there is no good set to begin with.

    A site's policy takes the place of a shipped one with the same id. `moment` gives seconds on a steady clock.
    """

    def __init__(
        self,
        folders: Sequence[Path] = (),
        *,
        moment: Callable[[], float] = time.monotonic,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folders, self._moment, self._clock = tuple(folders), moment, clock
        self.schema = cedarpy.Schema.from_str(schema_text())
        self._shipped = _rules(policy_file.read(path, self.schema) for path in _files(folder("policies")))
        self.problems: Sequence[PolicyInvalid] = ()
        self._stamps = self._look()
        self._looked = moment()
        self._number = 0
        self._kept: dict[Hashable, cedarpy.Entities] = {}
        found, problems = self._load()
        if found is None:
            raise problems[0]
        self._set = found

    @property
    def current(self) -> PolicySet:
        """The set in force. Looks at the files at most once in LOOK_EVERY seconds."""
        now = self._moment()
        if self._folders and now - self._looked >= LOOK_EVERY:
            self._looked = now
            stamps = self._look()
            if stamps != self._stamps:
                self._stamps = stamps
                self._reload()
        return self._set

    def check(self, name: str, text: str) -> PolicyFile:
        """Look at a text as a file of this name would be looked at."""
        found = policy_file.parse(Path(name), text, self.schema)
        found.problems += _about_roles(found)
        return found

    def decide(
        self,
        caller: Principal,
        action: Action,
        subject: Thing,
        when: datetime,
        *,
        hour: int | None = None,
        weekday: int | None = None,
    ) -> Decision:
        """Whether the caller may do it, and by which policies. `when` is local time.

        A policy that cannot be worked out forbids: what it would have forbidden is not known.
        """
        about, rules = _about(subject), self.current.rules
        part = self._set.part(action, about)
        asked = policy_question.request(caller, action, subject, when, hour=hour, weekday=weekday)
        known = policy_guard.facts_of(caller, subject) if isinstance(subject, Subject) else None
        said = self._ask(asked, part.whole if known is None else part.chosen(known), caller, subject)
        if said.diagnostics.errors:
            errors = self._ask(asked, part.whole, caller, subject).diagnostics.errors
            log.error("a policy cannot be worked out", action=action, errors=errors)
            broken = [part.named(name) for error in errors for name in _POLICY.findall(error)[:1]]
            return Decision(allowed=False, action=action, about=about, by="fault", reasons=_reasons(broken, subject))
        if said.diagnostics.reasons:
            found = [rules[name] for name in said.diagnostics.id_annotations_by_reason.values()]
            by: Literal["permit", "forbid"] = "permit" if said.allowed else "forbid"
            return Decision(allowed=said.allowed, action=action, about=about, by=by, reasons=_reasons(found, subject))
        return self.lacking(action, about)

    def lacking(self, action: Action, about: About = "session") -> Decision:
        """The denial of who has no part in it: it names all policies that permit such a thing to somebody."""
        rules = self._set.rules.values()
        permits = [rule for rule in rules if rule.effect == "permit" and rule.concerns(action, about)]
        return Decision(allowed=False, action=action, about=about, by="none", reasons=_reasons(permits, None))

    def _ask(self, asked: dict[str, Any], chosen: Chosen, caller: Principal, subject: Thing) -> cedarpy.AuthzResult:
        """Put the question to Cedar. Who asks and for which project is kept in its form: that is half of the costs."""
        key = policy_question.lasting_key(caller, subject)
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            kept = self._kept[key] = cedarpy.Entities.from_json_str(policy_question.lasting(caller, subject))
        entities = kept.with_added_json_str(policy_question.passing(subject, chosen.words))
        return cedarpy.is_authorized(asked, chosen.cedar, entities)

    def _reload(self) -> None:
        found, problems = self._load()
        self.problems = problems
        if found is None:
            first = problems[0]
            log.error(
                "policies are broken: the set before stays in force", problem=first.message, problems=len(problems)
            )
            return
        self._set = found
        log.info("policies are read again", policies=len(found.rules), limits=len(found.limits))

    def _load(self) -> tuple[PolicySet | None, Sequence[PolicyInvalid]]:
        files, problems = _read(self._folders, self.schema)
        if problems:
            return None, problems
        rules = {**self._shipped, **_rules(files)}
        limits = {name: one for file in files for name, one in file.limits.items()}
        self._number += 1
        return PolicySet(self._number, self._clock(), rules, limits), ()

    def _look(self) -> Mapping[Path, _Stamp | None]:
        found = (place for folder in self._folders for place in (folder, *_files_now(folder)))
        return {path: _stamp(path) for path in found}


def look_at(places: Iterable[Path]) -> Sequence[PolicyInvalid]:
    """What is wrong with files of policies, and folders of them; nothing comes into force."""
    return _read(places, cedarpy.Schema.from_str(schema_text()))[1]


def _read(places: Iterable[Path], schema: cedarpy.Schema) -> tuple[Sequence[PolicyFile], Sequence[PolicyInvalid]]:
    files, problems = [], []
    for place in places:
        try:
            found = [place] if place.is_file() else _files(place)
        except FileNotFoundError:
            problems.append(policy_file.problem(place, "", 0, "there is no such folder (policy.folders)"))
        except OSError as error:
            problems.append(policy_file.problem(place, "", 0, f"it cannot be read: {error.strerror}"))
        else:
            files += [policy_file.read(path, schema) for path in found]
    problems += [problem for file in files for problem in [*file.problems, *_about_roles(file)]]
    return files, [*problems, *_doubles(files)]


def require(decision: Decision) -> Decision:
    """The decision, if it is a yes. PolicyDenied names the policies and says what would be allowed."""
    if decision.allowed:
        return decision
    names = ", ".join(reason.policy for reason in decision.reasons) or "none at all"
    verb = _VERBS[decision.action]
    what = f"{verb} {decision.about}" if decision.about in {"secret", "volume"} else verb
    message = {
        "forbid": f"you may not {what}: forbidden by the policy {names}",
        "fault": f"you may not {what}: this policy cannot be worked out: {names}",
    }.get(decision.by, f"you may not {what}: what would permit it is the policy {names}")
    raise denial(decision, message)


def denial(decision: Decision, message: str, hint: str = "") -> PolicyDenied:
    """A denial in these words, with what would be allowed."""
    said = "; ".join(map(_sentence, decision.reasons))
    return PolicyDenied(
        message,
        hint=hint or (f"Allowed: {said.rstrip('.')}." if said else ""),
        policy=decision.policy,
        action=decision.action,
        policies=[reason.model_dump() for reason in decision.reasons],
    )


def _sentence(reason: Reason) -> str:
    return f"{reason.allows.rstrip('.')} (you ask for {reason.asked})" if reason.asked else reason.allows


def _about(subject: Thing) -> About:
    return "session" if isinstance(subject, Subject) else _ABOUT[subject.kind]


_ABOUT: Mapping[str, About] = {
    "Secret": "secret",
    "Volume": "volume",
    "Person": "person",
    "Project": "project",
    "Token": "token",
}


def _reasons(rules: Sequence[Rule], subject: Thing | None) -> tuple[Reason, ...]:
    return tuple(
        Reason(policy=rule.id, allows=rule.allows, asked=_asked(rule, subject), where=f"{rule.path.name}:{rule.line}")
        for rule in sorted(rules, key=lambda rule: rule.id)
    )


def _asked(rule: Rule, subject: Thing | None) -> str:
    if not rule.looks_at or not isinstance(subject, Subject):
        return ""
    return limits_of.asked(rule.looks_at, policy_question.values(subject), subject.plan.parameters)


def _files(place: Path) -> Sequence[Path]:
    """OSError if there is no such folder, or it cannot be read."""
    found = (path for path in place.iterdir() if path.suffix in {".cedar", ".toml"} and not path.name.startswith("."))
    return sorted(found)


def _files_now(place: Path) -> Sequence[Path]:
    """Those there are to be looked at: one that cannot be read is told where it is read."""
    try:
        return _files(place)
    except OSError:
        return []


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _rules(files: Iterable[PolicyFile]) -> dict[str, Rule]:
    return {rule.id: rule for file in files for rule in file.rules}


def _about_roles(file: PolicyFile) -> Iterator[PolicyInvalid]:
    """Lists would not follow such a policy: they go by roles alone."""
    for rule in file.rules:
        if named := sorted(rule.actions & ROLES_ALONE):
            yield _said_of(rule, f"the policy {rule.id} is about `{named[0]}`: that is decided by roles alone")


def _doubles(files: Iterable[PolicyFile]) -> Iterator[PolicyInvalid]:
    first: dict[str, Rule] = {}
    for file in files:
        for rule in file.rules:
            other = first.setdefault(rule.id, rule)
            if other is not rule:
                yield _said_of(rule, f"there is a policy {rule.id} already: {other.path}:{other.line}")


def _said_of(rule: Rule, why: str) -> PolicyInvalid:
    place = f"{rule.path}:{rule.line}:1"
    return PolicyInvalid(f"{place}: {why}", file=str(rule.path), line=rule.line, column=1, why=why)
