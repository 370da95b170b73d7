"""Limits: maxima of resources and locks of parameters as a site writes them, for whom, and how a form shows them. Pure.

One value says both: `statements` are the Cedar policies that decide, `shown` is what forms and JSON schemas say.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator

from gateway.model.parameter import Scalar, Value
from gateway.model.policy import text_of
from gateway.model.principal import Origin
from gateway.model.recipe import Recipe
from gateway.model.resources import count_from
from gateway.model.text import parse_memory, parse_time

LimitName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Names = tuple[str, ...]
_PLAIN = re.compile(r"^\{\{\s*([a-z][a-z0-9_]*)\s*\}\}$")
_positive = count_from(1)


def _four_places(value: float) -> float:
    if Decimal(str(value)) != Decimal(str(value)).quantize(Decimal("0.0001")):
        raise ValueError("at most four places after the point")
    return value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Maxima(_Part):
    """The most that a job may ask for."""

    gpus: int | None = Field(None, ge=0, description="GPUs of the whole job.")
    gpus_per_node: int | None = Field(None, ge=0, description="GPUs of each node.")
    nodes: int | None = Field(None, ge=1, description="Nodes.")
    cpus: int | None = Field(None, ge=1, description="CPUs a task; the job must say how many.")
    memory: int | None = Field(None, description="Memory a node; the job must say how much.")
    time: int | None = Field(None, description="Time limit; the job must have one.")

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: object) -> object:
        return None if value is None else _positive(parse_memory(value))

    @field_validator("time", mode="before")
    @classmethod
    def _time(cls, value: object) -> object:
        return None if value is None else parse_time(value)

    def said(self, name: str) -> str:
        """One of them in words."""
        return words(name, getattr(self, name))


class Only(_Part):
    """The values that alone may be asked for."""

    gpu_types: Names | None = None
    partitions: Names | None = None
    qos: Names | None = None


class ParameterLimit(_Part):
    """The largest number that may be answered."""

    maximum: Annotated[float, AfterValidator(_four_places)]


class Limit(_Part):
    """For whom and what it holds (all that is said must be so; nothing said: everybody), and what it holds to."""

    why: str = Field("", description="A sentence for those whom it stops.", max_length=300)
    recipes: Names = ()
    projects: Names = ()
    project_labels: Mapping[str, str] = {}
    groups: Names = Field((), description="Members of any of these groups.")
    except_groups: Names = Field((), description="But not members of any of these.")
    origins: tuple[Origin, ...] = ()
    clusters: Names = ()
    partitions: Names = Field((), description="Jobs that name any of these partitions.")
    maximum: Maxima = Maxima()
    only: Only = Only()
    lock: Mapping[str, Scalar | list[Scalar]] = Field({}, description="Parameters with the value that they have.")
    parameters: Mapping[str, ParameterLimit] = Field({}, description="Parameters with the largest number.")


@dataclass(frozen=True)
class Circumstances:
    """What is known before a form is filled in."""

    recipe: str
    project: str | None
    labels: Mapping[str, str]
    groups: frozenset[str]
    origin: str
    cluster: str


@dataclass(frozen=True)
class Statement:
    """One policy made of a limit: its id, what it leaves allowed, its condition, and what it looks at."""

    id: str
    allows: str
    condition: str
    looks_at: str


def words(name: str, value: int) -> str:
    """A resource in words: `4 GPUs`, `2 h`, `512 MiB`."""
    match name:
        case "time":
            hours, minutes = divmod(value, 60)
            return " ".join(part for part in (f"{hours} h" * bool(hours), f"{minutes} min" * bool(minutes)) if part)
        case "memory":
            return "all memory of a node" if value == 0 else f"{value} MiB a node"
        case "cpus":
            return f"{_counted(value, 'CPU')} a task"
        case "gpus_per_node":
            return f"{_counted(value, 'GPU')} a node"
        case "gpus":
            return _counted(value, "GPU")
        case _:
            return _counted(value, name.removesuffix("s"))


def _counted(value: int, what: str) -> str:
    return f"{value} {what}{'' if value == 1 else 's'}"


def holds(limit: Limit, here: Circumstances) -> bool:
    """Whether the limit holds there, whatever partition is chosen. The same question as `_conditions` in Cedar."""
    return (
        (not limit.recipes or here.recipe in limit.recipes)
        and (not limit.projects or here.project in limit.projects)
        and all(here.labels.get(name) == value for name, value in limit.project_labels.items())
        and (not limit.groups or not here.groups.isdisjoint(limit.groups))
        and here.groups.isdisjoint(limit.except_groups)
        and (not limit.origins or here.origin in limit.origins)
        and (not limit.clusters or here.cluster in limit.clusters)
    )


def statements(name: str, limit: Limit) -> Iterator[Statement]:
    """The policies that a limit is: each forbids one thing."""
    scope = list(_conditions(limit))
    for kind, allows, condition in _rules(limit):
        whole = " &&\n  ".join([*scope, f"({condition})"])
        said = f"{allows}. {limit.why}".rstrip() if limit.why else allows
        yield Statement(f"{name}.{kind}", said, whole, kind)


def quoted(text: str) -> str:
    """A text in Cedar."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'.replace("\0", "\\0")


def _set(names: Iterable[str], kind: str = "") -> str:
    return f"[{', '.join(f'{kind}::{quoted(name)}' if kind else quoted(name) for name in names)}]"


def _conditions(limit: Limit) -> Iterator[str]:
    if limit.recipes:
        yield f"{_set(limit.recipes, 'Recipe')}.contains(resource.recipe)"
    if limit.projects:
        yield f"{_set(limit.projects)}.contains(resource.project.name)"
    for label, value in limit.project_labels.items():
        key = quoted(label)
        yield f"resource.project.hasTag({key}) && resource.project.getTag({key}) == {quoted(value)}"
    if limit.groups:
        yield f"principal in {_set(limit.groups, 'Group')}"
    if limit.except_groups:
        yield f"!(principal in {_set(limit.except_groups, 'Group')})"
    if limit.origins:
        yield f"{_set(limit.origins)}.contains(context.origin)"
    if limit.clusters:
        yield f"{_set(limit.clusters, 'Cluster')}.contains(resource.cluster)"
    if limit.partitions:
        yield f"resource.partitions.containsAny({_set(limit.partitions, 'Partition')})"


def _rules(limit: Limit) -> Iterator[tuple[str, str, str]]:
    for name in Maxima.model_fields:
        most = getattr(limit.maximum, name)
        if most is None:
            continue
        over = f"resource.{name} > {most}"
        if name in {"cpus", "time"}:
            over = f"!(resource has {name}) || {over}"
        if name == "memory":
            over = f"!(resource has memory) || resource.memory == 0 || {over}"
        yield name, f"at most {limit.maximum.said(name)}", over
    if (types := limit.only.gpu_types) is not None:
        inside = f"resource has gpu_type && {_set(types)}.contains(resource.gpu_type)"
        yield "gpu_types", f"GPUs of the types {', '.join(types)}", f"resource.gpus > 0 && !({inside})"
    if (places := limit.only.partitions) is not None:
        inside = f"{_set(places, 'Partition')}.containsAll(resource.partitions)"
        yield "partitions", f"the partitions {', '.join(places)}", f"resource.partitions.isEmpty() || !({inside})"
    if (qos := limit.only.qos) is not None:
        inside = f"resource has qos && {_set(qos)}.contains(resource.qos)"
        yield "qos", f"the QOS {', '.join(qos)}", f"!({inside})"
    for name, value in limit.lock.items():
        key, text = quoted(name), text_of(value)
        inside = f"resource.answers.hasTag({key}) && resource.answers.getTag({key}) == {quoted(text)}"
        yield f"lock.{name}", f"{name} is {text}", f"resource.parameters.contains({key}) && !({inside})"
    for name, parameter in limit.parameters.items():
        yield f"parameters.{name}", f"{name} is at most {text_of(parameter.maximum)}", _above(name, parameter.maximum)


def _above(name: str, most: float) -> str:
    key, exact = quoted(name), Decimal(str(most))
    floor = int(exact // 1)
    decimal = f"{exact:.4f}"
    return (
        f"(resource.integers.hasTag({key}) && resource.integers.getTag({key}) > {floor}) || "
        f"(resource.decimals.hasTag({key}) && resource.decimals.getTag({key}).greaterThan(decimal({quoted(decimal)})))"
    )


def locked(limits: Mapping[str, Limit], recipe: Recipe, here: Circumstances) -> dict[str, Value]:
    """The values of locked parameters of the recipe, for those who leave them out."""
    found: dict[str, Value] = {}
    for limit in limits.values():
        if not limit.partitions and holds(limit, here):
            for name, value in limit.lock.items():
                if name in recipe.parameters and recipe.parameters[name].type != "secret":
                    found.setdefault(name, value)
    return found


def shown(
    schema: Mapping[str, Any], limits: Mapping[str, Limit], recipe: Recipe, here: Circumstances
) -> dict[str, Any]:
    """A recipe's schema of answers with what is allowed to this caller there, and `$defs.resources` beside it.

    What hangs on the partition stands in the descriptions only.
    """
    properties = {name: dict(one) for name, one in schema["properties"].items()}
    resources: dict[str, dict[str, Any]] = {}
    for name, limit in limits.items():
        if not holds(limit, here):
            continue
        sure = not limit.partitions
        where = "" if sure else f" (in partition {', '.join(limit.partitions)})"
        for key, most in limit.maximum.model_dump(exclude_none=True).items():
            note = f"At most {limit.maximum.said(key)}{where} (policy {name}.{key})."
            _bound(resources.setdefault(key, {"type": "integer"}), most if sure else None, note)
            if (parameter := _plain_parameter(recipe, key)) in properties:
                _bound(properties[parameter], most if sure else None, note)
        for key, values in limit.only.model_dump(exclude_none=True).items():
            note = f"One of {', '.join(values)}{where} (policy {name}.{key})."
            one = resources.setdefault({"gpu_types": "gpu_type", "partitions": "partition"}.get(key, key), {})
            one |= {"enum": [word for word in one.get("enum", values) if word in values]} if sure else {}
            one["description"] = _and(one, note)
        for key, value in limit.lock.items():
            if key in properties and recipe.parameters[key].type != "secret":
                one = properties[key]
                one["description"] = _and(one, f"Is {text_of(value)}{where} (policy {name}.lock.{key}).")
                if sure:
                    one |= {"const": value, "default": value, "readOnly": True}
        for key, parameter_limit in limit.parameters.items():
            if key in properties:
                most = parameter_limit.maximum
                note = f"At most {text_of(most)}{where} (policy {name}.parameters.{key})."
                one = properties[key]
                if "items" in one:
                    one["items"] = dict(one["items"])
                target = one.get("items", one)
                _bound(target, (int(most) if float(most).is_integer() else most) if sure else None, note)
    required = [name for name in schema["required"] if "const" not in properties[name]]
    made = {**schema, "properties": properties, "required": required}
    if resources:
        made["$defs"] = {"resources": {"type": "object", "properties": resources}}
    return made


def _plain_parameter(recipe: Recipe, resource: str) -> str | None:
    """The parameter that is the resource, where the recipe says `{{ parameter }}` and nothing else."""
    asked = recipe.resources
    value = asked.gpus.count if resource in {"gpus", "gpus_per_node"} else getattr(asked, resource, None)
    found = _PLAIN.match(value) if isinstance(value, str) else None
    if found is None or found[1] not in recipe.parameters:
        return None
    return found[1] if recipe.parameters[found[1]].type == "integer" else None


def _bound(one: dict[str, Any], most: float | None, note: str) -> None:
    if most is not None:
        one["maximum"] = min(most, one.get("maximum", most))
    one["description"] = _and(one, note)


def _and(one: Mapping[str, Any], note: str) -> str:
    return f"{one['description']} {note}" if one.get("description") else note


def asked(kind: str, values: Mapping[str, Any], answers: Mapping[str, Value | None]) -> str:
    """What was asked for instead of what a limit's policy leaves, in words."""
    group, _, name = kind.partition(".")
    if name:
        value = answers.get(name)
        return "" if value is None else text_of(value)
    if group in Maxima.model_fields:
        given = values.get(group)
        return "none was said" if given is None else words(group, given)
    found = values.get({"gpu_types": "gpu_type"}.get(group, group))
    return ", ".join(found) if isinstance(found, Sequence) and not isinstance(found, str) else str(found or "none")
