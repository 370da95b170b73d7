"""Which policies can be put aside unread: those whose first words say that they are about others. Pure.

Cedar works out each policy that it is given, from left to right. Where the first conditions of one compare what is
known of every question (recipe, cluster, project, group, origin ...) with fixed words, the same is told here by a look
into a set, and the policy is left away if one of them does not hold. Reading ends at the first condition of another
kind: it might be one that cannot be worked out, which forbids.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gateway.model.policy import Subject
from gateway.model.principal import Principal

Fact = tuple[str, str, str]
"""What is known of a question: kind, name, and the value of a label."""

#: What is compared, and the kind of entity it is; none: a text. All of them are there whatever is asked.
_COMPARED: Mapping[str, tuple[str, str]] = {
    "principal": ("user", "User"),
    "principal.name": ("user", ""),
    "resource.owner": ("owner", "User"),
    "resource.recipe": ("recipe", "Recipe"),
    "resource.cluster": ("cluster", "Cluster"),
    "resource.project": ("project", "Project"),
    "resource.project.name": ("project", ""),
    "context.origin": ("origin", ""),
}
_GIVEN = ("token", "token_session", "token_project")


class Guard(NamedTuple):
    """A condition: whether any of these facts is so must be as `wanted`."""

    facts: frozenset[Fact]
    wanted: bool = True

    def holds(self, facts: frozenset[Fact]) -> bool:
        return self.facts.isdisjoint(facts) is not self.wanted


def facts_of(caller: Principal, subject: Subject) -> frozenset[Fact]:
    """All that guards look at."""
    given = zip(_GIVEN, (caller.token, caller.session, caller.project), strict=True)
    return frozenset(
        [
            ("user", caller.name, ""),
            ("owner", subject.owner, ""),
            ("recipe", subject.plan.recipe, ""),
            ("cluster", subject.cluster, ""),
            ("project", subject.project, ""),
            ("origin", caller.origin, ""),
            *(("group", name, "") for name in caller.groups),
            *(("given", name, "") for name, value in given if value is not None),
            *(("has", name, "") for name in subject.labels),
            *(("label", name, value) for name, value in subject.labels.items()),
        ]
    )


def guards_of(said: Mapping[str, Any]) -> tuple[Guard, ...]:
    """The guards of a policy in Cedar's JSON form, in their order."""
    found: list[Guard] = []
    scope = said["principal"]
    if scope["op"] in {"==", "in"} and "entity" in scope:
        guard = _against(scope["op"], {"Var": "principal"}, {"Value": {"__entity": scope["entity"]}})
        if guard is None:
            return ()
        found.append(guard)
    elif scope["op"] != "All":
        return ()
    first = next(iter(said["conditions"]), None)
    if first is not None and first["kind"] == "when":
        for condition in _conjuncts(first["body"]):
            guard = _guard(condition, found)
            if guard is None:
                break
            found.append(guard)
    return tuple(found)


def words_of(said: object) -> Iterator[str]:
    """Every word of a policy in Cedar's JSON form. An attribute that is not among them is not looked at."""
    if isinstance(said, str):
        yield said
    elif isinstance(said, Mapping | list):
        for value in said.values() if isinstance(said, Mapping) else said:
            yield from words_of(value)


def _conjuncts(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    both = body.get("&&")
    if both is None:
        yield body
    else:
        yield from _conjuncts(both["left"])
        yield from _conjuncts(both["right"])


def _guard(condition: Mapping[str, Any], before: list[Guard]) -> Guard | None:
    (word, said), *_ = condition.items()
    match word:
        case "!":
            inner = _guard(said["arg"], before)
            return None if inner is None else Guard(inner.facts, not inner.wanted)
        case "||":
            sides = [_guard(said[side], before) for side in ("left", "right")]
            given = [one.facts for one in sides if one is not None and one.wanted]
            return Guard(given[0] | given[1]) if len(given) == len(sides) else None
        case "!=":
            inner = _equal(said["left"], said["right"], before)
            return None if inner is None else Guard(inner.facts, not inner.wanted)
        case "==":
            return _equal(said["left"], said["right"], before)
        case "in":
            return _against("in", said["left"], said["right"])
        case "contains":
            return _against("==", said["right"], said["left"]) if "Set" in said["left"] else None
        case "has" if said["left"] == {"Var": "context"} and said.get("attr") in _GIVEN:
            return Guard(frozenset({("given", said["attr"], "")}))
        case "hasTag" if _path(said["left"]) == "resource.project" and (label := _text(said["right"])) is not None:
            return Guard(frozenset({("has", label, "")}))
    return None


def _equal(left: Mapping[str, Any], right: Mapping[str, Any], before: list[Guard]) -> Guard | None:
    """Equality; of a label only behind the question whether there is one."""
    for one, other in ((left, right), (right, left)):
        tag = one.get("getTag")
        if tag is not None:
            label, value = _text(tag["right"]), _text(other)
            there = label is not None and Guard(frozenset({("has", label, "")})) in before
            if not there or value is None or label is None or _path(tag["left"]) != "resource.project":
                return None
            return Guard(frozenset({("label", label, value)}))
        if (found := _against("==", one, other)) is not None:
            return found
    return None


def _against(word: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Guard | None:
    """Something that is compared (`==`), or looked for (`in`), with fixed words."""
    path = _path(one)
    if path is None:
        return None
    items = other.get("Set", [other])
    if path == "principal" and word == "in":
        kind, of = "group", "Group"
    elif path in _COMPARED:
        kind, of = _COMPARED[path]
        if word == "in" and path not in {"resource.recipe", "resource.cluster"}:
            return None
    else:
        return None
    names = [_entity(item, of) if of else _text(item) for item in items]
    known = [name for name in names if name is not None]
    return Guard(frozenset((kind, name, "") for name in known)) if len(known) == len(names) else None


def _path(node: Mapping[str, Any]) -> str | None:
    """`resource.project.name`, if it is such a thing."""
    if "Var" in node:
        return str(node["Var"])
    step = node.get(".")
    if step is None:
        return None
    before = _path(step["left"])
    return None if before is None else f"{before}.{step['attr']}"


def _text(node: Mapping[str, Any]) -> str | None:
    value = node.get("Value")
    return value if isinstance(value, str) else None


def _entity(node: Mapping[str, Any], of: str) -> str | None:
    value = node.get("Value")
    named = value.get("__entity") if isinstance(value, Mapping) else None
    return str(named["id"]) if named is not None and named["type"] == of else None
