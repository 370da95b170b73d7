"""A question as Cedar takes it: the caller, the session and the circumstances as entities and context. Pure."""

import json
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import partial
from operator import attrgetter
from typing import Any

from gateway.model.plan import PlannedMount
from gateway.model.policy import Action, Kept, Ruled, Subject, Thing, largest, text_of
from gateway.model.principal import Principal, Role
from gateway.model.resources import Resources

Entity = dict[str, Any]
_ROLES = tuple(Role)


def request(
    caller: Principal, action: Action, subject: Thing, when: datetime, *, hour: int | None, weekday: int | None
) -> dict[str, Any]:
    """Who, what, with which session, in which circumstances. `when` is local time."""
    given = {"token": caller.token, "token_session": caller.session, "token_project": caller.project}
    context = {
        "origin": caller.origin,
        "hour": when.hour if hour is None else hour,
        "weekday": when.isoweekday() if weekday is None else weekday,
        "scopes": sorted(caller.scopes),
        **{name: value for name, value in given.items() if value is not None},
        **(subject.context if isinstance(subject, Ruled) else {}),
    }
    return {
        "principal": _uid("User", caller.name),
        "action": _uid("Action", action),
        "resource": _uid("Session" if isinstance(subject, Subject) else subject.kind, subject.id),
        "context": json.dumps(context),
    }


def asking_key(caller: Principal) -> Hashable:
    """All of a caller that a decision can look at."""
    who = caller.name, caller.kind, caller.admin, caller.operator, caller.groups, tuple(caller.projects.items())
    return who, caller.scopes, caller.origin, caller.token, caller.session, caller.project


def lasting(caller: Principal, subject: Thing) -> str:
    """The caller with groups and roles, and the project, as JSON: the same for many questions."""
    project = [_project(subject.project, subject.labels)] if subject.project is not None else []
    return json.dumps([_user(caller), *project])


def lasting_key(caller: Principal, subject: Thing) -> Hashable:
    """What `lasting` is made of."""
    who = caller.name, caller.kind, caller.admin, caller.operator, caller.groups, caller.project
    return who, tuple(caller.projects.items()), subject.project, tuple(subject.labels.items())


def passing(subject: Thing, words: frozenset[str]) -> str:
    """The session and its answers, or what else it is about, as JSON. Projects are in `lasting`.

    Of a session those attributes that are among the `words` of policies: the others are not asked for.
    """
    if isinstance(subject, Ruled):
        return json.dumps([_ruled(subject)] if subject.kind != "Project" else [])
    if isinstance(subject, Kept):
        return json.dumps([_kept(subject)])
    return json.dumps([_session(subject, words), *_answers(subject, words)])


_VALUES: Mapping[str, Callable[[Resources], Any]] = {
    "gpus": lambda asked: asked.gpus.count * asked.nodes,
    "gpus_per_node": lambda asked: asked.gpus.count,
    "gpu_share": lambda asked: asked.gpus.share,
    "gpu_type": lambda asked: asked.gpus.type,
    "exclusive": lambda asked: asked.exclusive,
    "partitions": lambda asked: asked.partition.split(",") if asked.partition else [],
    **{name: attrgetter(name) for name in ("nodes", "cpus", "memory", "time", "account", "qos")},
}


def values(subject: Subject) -> dict[str, Any]:
    """What policies see of the resources that are asked for."""
    found = {name: look(subject.plan.resources) for name, look in _VALUES.items()}
    return {name: value for name, value in found.items() if value is not None}


def volume_class(mount: PlannedMount) -> str:
    """A volume's class; else `home` for a relative path below the person's home, `path` for any other place."""
    if mount.volume_class is not None:
        return mount.volume_class
    return "path" if mount.source.startswith("/") else "home"


def _user(caller: Principal) -> Entity:
    teams = [
        f"{project}/{role.value}"
        for project in caller.projects
        for role in _ROLES
        if (mine := caller.role_in(project)) is not None and mine.reaches(role)
    ]
    return {
        "uid": _uid("User", caller.name),
        "attrs": {
            "name": caller.name,
            "kind": caller.kind,
            "admin": caller.admin,
            "operator": caller.operator,
        },
        "parents": [*(_uid("Group", group) for group in sorted(caller.groups)), *(_uid("Team", one) for one in teams)],
    }


def _project(name: str, labels: Mapping[str, str]) -> Entity:
    teams = {f"{role.value}s": _ref("Team", f"{name}/{role.value}") for role in _ROLES}
    return {
        "uid": _uid("Project", name),
        "attrs": {"name": name, **teams},
        "parents": [],
        "tags": dict(labels),
    }


def _kept(subject: Kept) -> Entity:
    whose = {
        "owner": None if subject.owner is None else _ref("User", subject.owner),
        "project": None if subject.project is None else _ref("Project", subject.project),
    }
    place: dict[str, Any] = {}
    if subject.kind == "Volume":
        place = {"cluster": _ref("Cluster", subject.cluster), "class": subject.volume_class, "path": subject.path}
    held = {name: value for name, value in whose.items() if value is not None}
    return {
        "uid": _uid(subject.kind, subject.id),
        "attrs": {"id": subject.id, "name": subject.name, **held, **place},
        "parents": [],
    }


def _ruled(subject: Ruled) -> Entity:
    said = {name: value for name, value in subject.attributes.items() if value is not None}
    named = {name: _ref(*reference) for name, reference in subject.references.items()}
    return {"uid": _uid(subject.kind, subject.id), "attrs": {**said, **named}, "parents": []}


def _session(subject: Subject, words: frozenset[str]) -> Entity:
    seen = {name: look(subject) for name, look in _ATTRIBUTES.items() if name in words}
    return {
        "uid": _uid("Session", subject.id),
        "attrs": {name: value for name, value in seen.items() if value is not None},
        "parents": [],
    }


def _answers(subject: Subject, words: frozenset[str]) -> list[Entity]:
    if words.isdisjoint({"answers", "integers", "decimals"}):
        return []
    given = {name: value for name, value in subject.plan.parameters.items() if value is not None}
    numbers = {name: largest(value) for name, value in given.items()}
    integers = {name: number for name, number in numbers.items() if isinstance(number, int)}
    decimals = {
        name: {"__extn": {"fn": "decimal", "arg": f"{number:f}"}}
        for name, number in numbers.items()
        if isinstance(number, Decimal)
    }
    tags: dict[str, dict[str, Any]] = {
        "Answers": {name: text_of(value) for name, value in given.items()},
        "Integers": integers,
        "Decimals": decimals,
    }
    return [
        {"uid": _uid(kind, subject.id), "attrs": {}, "parents": [], "tags": dict(one)}
        for kind, one in tags.items()
        if one
    ]


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}


def _ref(kind: str, name: str) -> dict[str, dict[str, str]]:
    return {"__entity": _uid(kind, name)}


def _value(name: str, subject: Subject) -> Any:
    return _VALUES[name](subject.plan.resources)


def _kind_of_answers(name: str, subject: Subject) -> Any:
    return _ref(name.capitalize(), subject.id)


_ATTRIBUTES: Mapping[str, Callable[[Subject], Any]] = {
    "id": lambda subject: subject.id,
    "owner": lambda subject: _ref("User", subject.owner),
    "project": lambda subject: _ref("Project", subject.project),
    "cluster": lambda subject: _ref("Cluster", subject.cluster),
    "recipe": lambda subject: _ref("Recipe", subject.plan.recipe),
    "version": lambda subject: subject.plan.version,
    "kind": lambda subject: subject.plan.kind,
    "image": lambda subject: subject.plan.image.model_dump(),
    "volumes": lambda subject: [mount.source for mount in subject.plan.mounts],
    "volume_classes": lambda subject: sorted({volume_class(mount) for mount in subject.plan.mounts}),
    "parameters": lambda subject: list(subject.plan.parameters),
    **{name: partial(_kind_of_answers, name) for name in ("answers", "integers", "decimals")},
    **{name: partial(_value, name) for name in _VALUES},
    "partitions": lambda subject: [_ref("Partition", name) for name in _VALUES["partitions"](subject.plan.resources)],
}
