"""A recipe: a versioned definition of what runs, in which image, with which parameters and resources."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from gateway.model.jobspec import EnvName, UrlPath
from gateway.model.parameter import Parameter, ParameterName, json_schema_of
from gateway.model.resources import GpuRequest, ResourceRequest
from gateway.model.secret import SecretName
from gateway.model.text import check_text, is_expression, parse_duration
from gateway.model.volume import check_target

Kind = Literal["service", "batch"]
Affinity = Literal["none", "prefix", "session"]
RecipeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
ImageName = Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9._-]{0,62}|/[^\x00-\x1f]+\.sif)$")]
LabelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$")]
Text = Annotated[str, AfterValidator(check_text)]
Template = Text
"""Text with Jinja2 expressions over the parameters."""
Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^(\d+[dhms])+$"}]}),
]
"""Seconds; written `90s`, `10m`, `2h`."""

RESERVED_PARAMETERS = frozenset(
    {"resources", "true", "false", "none", "and", "or", "not", "in", "is", "if", "else", "import", "recursive"}
)
"""Words that mean something else in expressions."""
MOST_REPLICAS = 64


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _output(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/") or not value:
        raise ValueError(f"{value!r} is not a path below the session's work folder")
    return check_text(value)


class Mount(_Part):
    """A folder or file of the cluster in the container."""

    source: Template | None = Field(
        None,
        description=(
            "Path on the cluster, absolute or relative to the user's home; "
            "an expression that gives nothing leaves the mount out."
        ),
    )
    volume: Template | None = Field(
        None,
        description=(
            "Instead of `source`: name of a volume, the user's own (`sluice volume add`), else the project's; "
            "an expression that gives nothing leaves the mount out."
        ),
    )
    target: Annotated[Text, AfterValidator(check_target)] = Field(description="Path in the container.")
    writable: bool = Field(default=False, description="Whether the program may write there.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.source is None) == (self.volume is None):
            raise ValueError("give exactly one of `source` and `volume`")
        return self


class SecretUse(_Part):
    """Where the value of a secret comes from."""

    parameter: ParameterName | None = Field(None, description="The parameter of type `secret` that holds it.")
    secret: SecretName | None = Field(
        None, description="The named secret that holds it: the user's own (`sluice secret set`), else the project's."
    )
    required: bool = Field(
        default=True, description="Whether nothing is started without the named secret; else it is left out."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.parameter is None) == (self.secret is None):
            raise ValueError("give exactly one of `parameter` and `secret`")
        if self.parameter is not None and not self.required:
            raise ValueError("`required` goes with `secret`; the parameter has a `required` of its own")
        return self


class ProbeRequest(_Part):
    """When a service counts as ready."""

    kind: Literal["http", "completion", "tcp"] = Field(
        "http",
        description=(
            "`http`: GET `path` answers with `status`. `completion`: a real one-token completion of `service.model`. "
            "`tcp`: it accepts a connection."
        ),
    )
    path: UrlPath | None = Field(
        None, description="Path that is asked; unset: `/health`, for completions `/v1/completions`."
    )
    status: int = Field(200, ge=100, le=599, description="HTTP status that means ready.")
    timeout: Duration | None = Field(None, description="How long one question may take.")


class ReplicasRequest(_Part):
    """How many jobs of the service run at a time, and when there are more or fewer of them."""

    min: int = Field(1, ge=0, le=MOST_REPLICAS, description="At least so many; 0: none while nobody asks for anything.")
    max: int | None = Field(
        None, ge=1, le=MOST_REPLICAS, description="At most so many; unset: as `min`, and at least 1."
    )
    target_in_flight: int = Field(8, ge=1, description="So many requests at a time are enough for one of them.")
    scale_down_after: Duration = Field(600, description="How long fewer must have been enough before one is ended.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError("`max` is less than `min`")
        return self

    @property
    def most(self) -> int:
        """`max`, worked out."""
        return self.max if self.max is not None else max(1, self.min)


class ServiceRequest(_Part):
    """How a service listens and is used."""

    listen: Literal["socket", "port"] = Field(
        "socket",
        description=(
            "`socket`: the Unix socket `/run/sluice/service.sock`, private to the user. "
            "`port`: 127.0.0.1:$SLUICE_PORT, which other users of the node can reach."
        ),
    )
    protocol: Literal["openai", "http"] = Field(
        "http", description="`openai`: a model server, offered under `/v1`; `http`: anything else."
    )
    model: Template | None = Field(
        None, description="Name of the served model, needed for `openai`; an expression as a rule."
    )
    prefix: Literal["strip", "keep"] = Field(
        "strip",
        description=(
            "`strip`: the service is asked for `/…` where a browser asks for `/s/<session>/…`. "
            "`keep`: it is asked for `$SLUICE_PREFIX/…`, for services that must know where they are."
        ),
    )
    probe: ProbeRequest | None = Field(
        None, description="Readiness; unset: a completion for `openai`, GET /health for `http`."
    )
    start_timeout: Duration = Field(1800, description="How long it may take to become ready.")
    affinity: Affinity = Field(
        "none",
        description=(
            "Which of several replicas answers. `none`: the least busy one. `prefix`: requests that begin alike go to "
            "one replica while it is not much busier than the others, so that its prefix cache is used. `session`: "
            "those of one `X-Session-Id` (else one `user` of the body, one browser, one caller) go to one replica."
        ),
    )
    max_in_flight: int | None = Field(
        None,
        ge=1,
        description="Requests that one replica answers at once; more wait in line. Unset: `proxy.session_in_flight`.",
    )
    max_queue: int | None = Field(
        None,
        ge=0,
        description="Requests that may wait in line; more are refused with 503. Unset: `proxy.session_queue`.",
    )
    replicas: ReplicasRequest | None = Field(
        None, description="How many jobs run at a time and share the requests; unset: one."
    )

    @model_validator(mode="after")
    def _openai_has_a_model(self) -> Self:
        needs = self.protocol == "openai" or (self.probe is not None and self.probe.kind == "completion")
        if needs and not self.model:
            raise ValueError("`model` is needed: requests are routed by it and the probe asks it")
        return self


class IdleRequest(_Part):
    """One rule of what happens to a service that nobody uses. The first rule that fits decides."""

    connected: bool = Field(
        default=False, description="`true`: it fits while WebSockets are open; `false`: while none is."
    )
    gpus: bool | None = Field(None, description="It fits sessions with GPUs (`true`) or without; unset: all.")
    kernels: bool = Field(
        default=False,
        description="Jupyter kernels and terminals at work are use, too: the server in the job is asked for them.",
    )
    gpu_below: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="GPUs of the job used so much (per cent) or more are use, too: `nvidia-smi` is asked."
    )
    after: Duration | None = Field(None, description="It is stopped when it was idle for so long; unset: never.")
    warn: Duration = Field(300, description="How long before that its users are told.")


class Lifecycle(_Part):
    """How a job ends and comes back."""

    grace: Duration = Field(15, description="How long requests in flight may take when the service is stopped.")
    kill_after: Duration = Field(
        30, ge=2, description="How long stopping may take altogether, until everything left is killed."
    )
    before_limit: Duration = Field(60, description="How long before its time limit a service begins to stop.")
    requeue: bool = Field(
        default=False, description="Whether Slurm may start the job again after a node failure or preemption."
    )
    renew: bool | None = Field(
        None,
        description=(
            "Whether a service goes on in another job before its time limit, when its node is drained, and after it "
            "was preempted or lost its node; unset: if it is a model server (`protocol: openai`), which keeps nothing."
        ),
    )
    idle: tuple[IdleRequest, ...] = Field(
        (), description="Rules of what happens to a service that nobody uses; none: it goes on."
    )


class Recipe(_Part):
    """One version of a recipe."""

    name: RecipeName = Field(description="Lower-case letters, digits and `-`; a site's recipe of the same name wins.")
    version: Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+){0,2}$")] = Field(
        description='Version, in quotes: `"1.2"`. The highest is used where none is asked for.'
    )
    title: Text = Field("", description="A few words for lists.")
    description: Text = Field("", description="What it does and what to know, for the catalogue.")
    kind: Kind = Field("batch", description="`service` runs until it is stopped; `batch` runs to its end.")
    image: ImageName | None = Field(
        None,
        description="The Apptainer image: a name as in `sluice image list`, or the absolute path of a SIF.",
    )
    command: tuple[Template, ...] | None = Field(
        None,
        min_length=1,
        description="The program and its arguments, each an expression and exactly one argument (or a list of them).",
    )
    script: Text | None = Field(
        None,
        description=(
            "Instead of `command`: a script (with a `#!` line, else bash). "
            "No expressions; parameters come as `$PARAM_<NAME>`."
        ),
    )
    parameters: dict[ParameterName, Parameter] = Field(
        default_factory=dict, description="What the user may answer, by name."
    )
    resources: ResourceRequest = Field(ResourceRequest(), description="What the job asks of Slurm.")
    env: dict[EnvName, Template] = Field(
        default_factory=dict,
        description="Environment of the program; an expression that gives nothing leaves the variable out.",
    )
    secrets: dict[EnvName, SecretUse] = Field(
        default_factory=dict, description="Environment variables with secret values, which never pass through Slurm."
    )
    mounts: tuple[Mount, ...] = Field((), description="Folders and files of the cluster in the container.")
    service: ServiceRequest | None = Field(None, description="For `kind: service`: how it listens and is used.")
    lifecycle: Lifecycle = Field(Lifecycle(), description="How a job ends and comes back.")
    outputs: tuple[Annotated[str, AfterValidator(_output)], ...] = Field(
        (), description="Files worth keeping, as patterns below the session's work folder."
    )
    labels: dict[LabelName, Text] = Field(default_factory=dict, description="Words for searching; copied to sessions.")
    deprecated: Text | None = Field(None, description="Why not to use it any more; shown at each use.")
    redirect: RecipeName | None = Field(
        None, description="The recipe to use instead: whoever asks for this one gets that one."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.redirect is not None:
            if self.redirect == self.name:
                raise ValueError("`redirect` names the recipe itself")
            return self
        for field in ("kind", "image"):
            if field not in self.model_fields_set:
                raise ValueError(f"`{field}` is needed")
        if (self.command is None) == (self.script is None):
            raise ValueError("give exactly one of `command` and `script`")
        if (self.kind == "service") != (self.service is not None):
            raise ValueError("`service` goes with `kind: service`, and a service needs it")
        for name in sorted(self.parameters.keys() & RESERVED_PARAMETERS):
            raise ValueError(f"a parameter cannot be called {name!r}: the word means something else in expressions")
        for name in sorted(name for name in self.env if name.startswith("PARAM_")):
            raise ValueError(f"`env` cannot set {name}: a script gets its parameters by such names")
        self._check_secrets()
        if self.kind == "batch" and (self.lifecycle.idle or self.lifecycle.renew):
            raise ValueError("`lifecycle.idle` and `lifecycle.renew` are for services")
        if self.kind == "service" and is_many(self.resources.nodes):
            raise ValueError("a service runs on one node: `resources.nodes` must be 1")
        return self

    def _check_secrets(self) -> None:
        used = {use.parameter for use in self.secrets.values() if use.parameter is not None}
        secret = {name for name, parameter in self.parameters.items() if parameter.type == "secret"}
        for name in sorted(used - secret):
            raise ValueError(f"`secrets` uses {name!r}, which is not a parameter of type secret")
        for name in sorted(secret - used):
            raise ValueError(f"the secret parameter {name!r} is used by nothing: name it under `secrets`")
        for name in sorted(self.secrets.keys() & self.env.keys()):
            raise ValueError(f"{name} stands in `env` and in `secrets`")


def is_many(nodes: int | str | None) -> bool:
    """Whether a request for nodes is for more than one, or may be."""
    return is_expression(nodes) or (isinstance(nodes, int) and nodes > 1)


def digest(recipe: Recipe) -> str:
    """SHA-256 (hex) of what the recipe says, whatever its file looks like."""
    text = json.dumps(recipe.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def version_key(version: str) -> tuple[int, ...]:
    """What versions are sorted by: `1.10` is newer than `1.9`."""
    return tuple(int(part) for part in version.split("."))


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a recipe file."""
    schema = Recipe.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sluice recipe",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def parameters_schema(recipe: Recipe) -> dict[str, Any]:
    """JSON Schema of the answers to a recipe's parameters, for forms and the API."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Parameters of {recipe.name} {recipe.version}",
        "type": "object",
        "properties": {name: json_schema_of(parameter) for name, parameter in recipe.parameters.items()},
        "required": [
            name for name, parameter in recipe.parameters.items() if parameter.required and parameter.default is None
        ],
        "additionalProperties": False,
    }


class FieldHelp(NamedTuple):
    """One field of a recipe file: its dotted name, its type in words, its help."""

    field: str
    type: str
    help: str


_NESTED: dict[str, type[BaseModel]] = {
    "parameters": Parameter,
    "resources": ResourceRequest,
    "resources.gpus": GpuRequest,
    "secrets": SecretUse,
    "mounts": Mount,
    "service": ServiceRequest,
    "service.probe": ProbeRequest,
    "service.replicas": ReplicasRequest,
    "lifecycle": Lifecycle,
    "lifecycle.idle": IdleRequest,
}
_LISTS = frozenset({"mounts", "lifecycle.idle"})
_KEYED = {"parameters": "<name>", "secrets": "<VARIABLE>"}


def fields_at(place: Sequence[str | int]) -> tuple[str, ...]:
    """The names that are allowed at a place of a recipe file (`("parameters", "threads")`); none for free mappings."""
    words = [str(word) for word in place if not isinstance(word, int)]
    if words and words[0] in _KEYED:
        del words[1:2]
    model = _NESTED.get(".".join(words)) if words else Recipe
    return tuple(model.model_fields) if model else ()


def describe() -> list[FieldHelp]:
    """Every field that a recipe file may have, in order, for the reference."""
    return list(_describe(Recipe, "", ""))


def _describe(model: type[BaseModel], prefix: str, shown: str) -> Iterator[FieldHelp]:
    schema = model.model_json_schema(mode="validation")["properties"]
    for name, info in model.model_fields.items():
        place = f"{prefix}{name}"
        yield FieldHelp(f"{shown}{name}", _type_words(schema[name], info.annotation), info.description or "")
        if nested := _NESTED.get(place):
            key = f".{_KEYED[place]}" if place in _KEYED else "[]" if place in _LISTS else ""
            yield from _describe(nested, f"{place}.", f"{shown}{name}{key}.")


def _type_words(schema: dict[str, Any], annotation: object) -> str:
    if get_args(annotation) and all(isinstance(word, str) for word in get_args(annotation)):
        return " | ".join(get_args(annotation))
    forms = schema.get("anyOf", [schema])
    words: list[str] = []
    for form in forms:
        match form:
            case {"pattern": pattern} if pattern == r"\{[\{%]":
                words.append("expression")
            case {"enum": values}:
                words.extend(map(str, values))
            case {"$ref": _}:
                words.append("mapping")
            case {"type": "object"}:
                words.append("mapping")
            case {"type": "array"}:
                words.append("list")
            case {"type": "null"}:
                pass
            case {"type": kind}:
                words.append({"string": "text", "number": "number"}.get(kind, kind))
            case {"allOf": _}:
                words.append("mapping")
    return re.sub(r"^$", "any", " | ".join(dict.fromkeys(words)))
