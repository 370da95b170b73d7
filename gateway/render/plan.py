"""Works a recipe and a user's answers out into a plan: every value checked, every expression gone."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from gateway.errors import ParameterInvalid, RecipeInvalid
from gateway.model.jobspec import CompletionProbe, HttpProbe, Probe, TcpProbe
from gateway.model.parameter import Parameter, Value, check_answers
from gateway.model.plan import (
    ClusterDefaults,
    PinnedImage,
    Plan,
    PlannedLifecycle,
    PlannedMount,
    PlannedReplicas,
    PlannedService,
)
from gateway.model.recipe import Mount, Recipe, ReplicasRequest, ServiceRequest, digest
from gateway.model.resources import Gpus, Resources
from gateway.model.text import check_text, is_expression, nearest
from gateway.model.volume import PATTERN
from gateway.render.expression import arguments, as_text, evaluate
from gateway.render.secret import sources


def make_plan(
    recipe: Recipe,
    answers: Mapping[str, object],
    *,
    image: PinnedImage,
    resources: Mapping[str, object] | None = None,
    defaults: ClusterDefaults | None = None,
) -> Plan:
    """Work everything out.

    `answers` by parameter name; texts are taken for numbers and booleans too. `resources` overrides single resources
    by name (`{"time": "2h", "gpus": "a100:2"}`); `defaults` fill in what neither recipe nor caller says.
    ParameterInvalid: an answer or a resource is not allowed. RecipeInvalid: an expression of the recipe cannot be
    worked out with these answers.
    """
    if recipe.redirect is not None or recipe.image is None:
        raise RecipeInvalid(f"recipe {recipe.name!r} only points to {recipe.redirect!r}", hint="Use that one.")
    values = check_answers(recipe.parameters, answers)
    inputs = _inputs(recipe, values)
    context: dict[str, object] = dict(inputs.seen)
    wanted = _resources(recipe, context, resources or {}, defaults or ClusterDefaults())
    if recipe.kind == "service" and max(wanted.nodes, wanted.tasks or 1) > 1:
        raise ParameterInvalid(
            "a service runs once, on one node", hint="Leave out nodes and tasks.", resource="resources.nodes"
        )
    context["resources"] = wanted.model_dump()
    work = _Work(recipe, context)
    return Plan(
        recipe=recipe.name,
        version=recipe.version,
        digest=digest(recipe),
        kind=recipe.kind,
        image=image,
        parameters={name: value for name, value in values.items() if recipe.parameters[name].type != "secret"},
        resources=wanted,
        command=None if recipe.command is None else work.command(recipe.command),
        script=recipe.script,
        env=work.env() | ({} if recipe.script is None else _script_env(inputs.seen)),
        secrets=sources(recipe, values),
        mounts=(*inputs.mounts, *work.mounts()),
        service=None if recipe.service is None else work.service(recipe.service),
        lifecycle=_lifecycle(recipe),
        outputs=recipe.outputs,
        labels=recipe.labels,
    )


class _Inputs(NamedTuple):
    """What expressions see of the parameters, and the mounts that come with them."""

    seen: dict[str, Value | None]
    mounts: list[PlannedMount]


def _inputs(recipe: Recipe, values: Mapping[str, Value | None]) -> _Inputs:
    inputs = _Inputs({}, [])
    for name, parameter in recipe.parameters.items():
        value = values[name]
        if parameter.type == "secret":
            continue
        if not parameter.mount or value is None:
            inputs.seen[name] = value
        elif isinstance(value, list):
            inputs.seen[name] = [
                _input(f"{name}/{place}", name, parameter, str(item), inputs.mounts) for place, item in enumerate(value)
            ]
        else:
            inputs.seen[name] = _input(name, name, parameter, str(value), inputs.mounts)
    return inputs


def _input(place: str, name: str, parameter: Parameter, value: str, mounts: list[PlannedMount]) -> str:
    """The path in the container of a mounted path, whose mount is added to `mounts`."""
    if any(value == kept or value.startswith(f"{kept.rstrip('/')}/") for kept in parameter.image_paths):
        return value
    try:
        source = cluster_path(value)
    except ValueError as error:
        raise ParameterInvalid(f"parameter {name!r}: {error}", parameter=name) from None
    target = f"/inputs/{place}/{source.rpartition('/')[2]}"
    mounts.append(PlannedMount(source=source, target=target))
    return target


def cluster_path(value: str) -> str:
    """A path on the cluster that can be mounted: absolute or relative to the user's home, `~/` taken off."""
    check_text(value)
    path = value.removeprefix("~/").rstrip("/")
    parts = path.split("/")
    if not path or ".." in parts or parts[-1] == "." or path.startswith("~") or "\n" in path:
        raise ValueError(
            f"{value!r} cannot be mounted: give an absolute path or one relative to the home directory, "
            "without '..' and line breaks"
        )
    return path


class _Work:
    """Works out the expressions of one recipe in one context."""

    def __init__(self, recipe: Recipe, context: Mapping[str, object]) -> None:
        self._recipe = recipe
        self._context = context

    def command(self, items: tuple[str, ...]) -> tuple[str, ...]:
        words: list[str] = []
        for place, item in enumerate(items):
            try:
                words += map(check_text, arguments(item, self._context))
            except ValueError as error:
                raise self._broken(f"command[{place}]", error) from error
        if not words or not words[0]:
            raise self._broken("command", ValueError("no program is left to run"))
        return tuple(words)

    def env(self) -> dict[str, str]:
        found = {name: self._text(f"env.{name}", text) for name, text in self._recipe.env.items()}
        return {name: value for name, value in found.items() if value is not None}

    def mounts(self) -> list[PlannedMount]:
        mounts = []
        for place, mount in enumerate(self._recipe.mounts):
            if mount.volume is not None:
                mounts += self._volume(f"mounts[{place}].volume", mount.volume, mount)
                continue
            source = self._text(f"mounts[{place}].source", mount.source or "")
            if not source:
                continue
            try:
                path = cluster_path(source)
            except ValueError as error:
                raise ParameterInvalid(f"mounts[{place}].source: {error}") from None
            mounts.append(PlannedMount(source=path, target=mount.target, writable=mount.writable))
        return mounts

    def _volume(self, field: str, template: str, mount: Mount) -> list[PlannedMount]:
        """A volume by its name; where it lies is for the gateway to say."""
        name = self._text(field, template)
        if not name:
            return []
        if not re.fullmatch(PATTERN, name):
            raise ParameterInvalid(f"{field}: {name!r} is no name of a volume")
        return [PlannedMount(source=".", target=mount.target, writable=mount.writable, volume=name)]

    def service(self, service: ServiceRequest) -> PlannedService:
        model = None if service.model is None else self._text("service.model", service.model)
        if service.model is not None and not model:
            raise ParameterInvalid("the served model has no name", hint=f"It comes from service.model: {service.model}")
        return PlannedService(
            listen=service.listen,
            protocol=service.protocol,
            model=model,
            prefix=service.prefix,
            probe=_probe(service, model),
            start_timeout=service.start_timeout,
            affinity=service.affinity,
            max_in_flight=service.max_in_flight,
            max_queue=service.max_queue,
            replicas=None if service.replicas is None else _replicas(service.replicas),
        )

    def _text(self, field: str, text: str) -> str | None:
        """The worked out text; None for a none."""
        try:
            value = evaluate(text, self._context)
            return None if value is None else check_text(as_text(value))
        except ValueError as error:
            raise self._broken(field, error) from error

    def _broken(self, field: str, error: ValueError) -> RecipeInvalid:
        return _broken(self._recipe, field, error)


def _broken(recipe: Recipe, field: str, error: ValueError) -> RecipeInvalid:
    return RecipeInvalid(
        f"recipe {recipe.name} {recipe.version}, {field}: {error}",
        hint=f"Check it with: sluice recipe show {recipe.name}",
        field=field,
    )


def _replicas(asked: ReplicasRequest) -> PlannedReplicas:
    return PlannedReplicas.model_validate({**asked.model_dump(), "max": asked.most})


def _lifecycle(recipe: Recipe) -> PlannedLifecycle:
    """A model server keeps nothing that a renewal could lose; of anything else that is not known."""
    asked = recipe.lifecycle
    model = recipe.service is not None and recipe.service.protocol == "openai"
    renew = model if asked.renew is None else asked.renew
    return PlannedLifecycle.model_validate({**asked.model_dump(), "renew": renew})


def _probe(service: ServiceRequest, model: str | None) -> Probe:
    asked = service.probe
    kind = asked.kind if asked else "completion" if service.protocol == "openai" else "http"
    given: dict[str, Any] = {}
    if asked is not None:
        given = {"path": asked.path, "timeout": asked.timeout, "status": asked.status}
        given = {key: value for key, value in given.items() if value is not None}
    match kind:
        case "completion":
            given.pop("status", None)
            return CompletionProbe(model=model or "", **given)
        case "tcp":
            return TcpProbe(**{key: value for key, value in given.items() if key == "timeout"})
        case _:
            return HttpProbe(**given)


def _script_env(seen: Mapping[str, Value | None]) -> dict[str, str]:
    """`PARAM_<NAME>` for a script; of a list also `PARAM_<NAME>_COUNT` and `PARAM_<NAME>_0`, `_1` and so on."""
    env: dict[str, str] = {}
    for name, value in seen.items():
        variable = f"PARAM_{name.upper()}"
        if isinstance(value, list):
            env[f"{variable}_COUNT"] = str(len(value))
            env |= {f"{variable}_{place}": as_text(item) for place, item in enumerate(value)}
        elif value is not None:
            env[variable] = as_text(value)
    return env


def _resources(
    recipe: Recipe, context: Mapping[str, object], overrides: Mapping[str, object], defaults: ClusterDefaults
) -> Resources:
    """The recipe's resources worked out, with the caller's over them and the cluster's defaults below."""
    asked = _worked_out(recipe, recipe.resources, context, "resources")
    gpus: dict[str, object] = _worked_out(recipe, recipe.resources.gpus, context, "resources.gpus")
    for name, value in overrides.items():
        if name not in Resources.model_fields:
            near = nearest(name, Resources.model_fields)
            raise ParameterInvalid(
                f"there is no resource {name!r}",
                hint=f"Did you mean {near!r}?" if near else f"Known: {', '.join(Resources.model_fields)}.",
                resource=name,
            )
        if name == "gpus" and value is not None:
            gpus |= _gpu_words(value)
        elif value is not None:
            asked[name] = value
    for name, value in defaults.model_dump().items():
        if asked.get(name) is None:
            asked[name] = value
    try:
        return Resources.model_validate({**asked, "gpus": Gpus.model_validate(gpus)})
    except ValidationError as error:
        first = error.errors()[0]
        inside = ("gpus",) if error.title == "Gpus" else ()
        place = ".".join(map(str, ("resources", *inside, *first["loc"])))
        raise ParameterInvalid(f"{place}: {first['msg'].removeprefix('Value error, ')}", resource=place) from None


def _worked_out(recipe: Recipe, request: BaseModel, context: Mapping[str, object], place: str) -> dict[str, object]:
    """The fields that say something, nested models left out."""
    found: dict[str, object] = {}
    for name in type(request).model_fields:
        value = getattr(request, name)
        if isinstance(value, BaseModel):
            continue
        if is_expression(value):
            try:
                value = evaluate(value, context)
            except ValueError as error:
                raise _broken(recipe, f"{place}.{name}", error) from error
        if value is not None and value != "":
            found[name] = value
    return found


def _gpu_words(value: object) -> dict[str, object]:
    """GPUs as a caller gives them: `2`, `a100:2`, `a100`, or a mapping of count, type and share."""
    if isinstance(value, Mapping):
        for name in value:
            if name not in Gpus.model_fields:
                raise ParameterInvalid(
                    f"there is no resource 'gpus.{name}'", hint=f"Known: {', '.join(Gpus.model_fields)}."
                )
        return {name: part for name, part in value.items() if part is not None}
    if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
        return {"count": value}
    kind, _, count = str(value).partition(":")
    return {"type": kind, "count": count or 1}
