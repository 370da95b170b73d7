"""What a job asks of Slurm: as a recipe writes it (with expressions), and worked out."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from gateway.model.text import is_expression, parse_memory, parse_time

Share = Literal["none", "mig", "shard", "mps"]
T = TypeVar("T")

_WORDS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+:-]*(,[A-Za-z0-9_][A-Za-z0-9_.@+:-]*)*")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+:-]*")
_CONSTRAINT = re.compile(r"[A-Za-z0-9_(\[][A-Za-z0-9_.,&|()\[\]*@:+-]*")
_GPU_TYPE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MIG = re.compile(r"\d+g\.\d+gb")


def count_from(minimum: int) -> Callable[[object], int]:
    """A check for whole numbers of at least `minimum`, also given as text."""

    def check(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"{value!r} is not a whole number of at least {minimum}")
        return value

    return check


def matching(pattern: re.Pattern[str], what: str) -> Callable[[object], str]:
    """A check for texts whose every character the pattern allows: what keeps a value one `#SBATCH` word."""

    def check(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return check


def flag(value: object) -> bool:
    """A boolean, also given as text."""
    if value in (True, "true", "True"):
        return True
    if value in (False, "false", "False"):
        return False
    raise ValueError(f"{value!r} is not true or false")


def share_word(value: object) -> Share:
    """One of the four ways to have a GPU."""
    match value:
        case "none" | "mig" | "shard" | "mps":
            return value
        case _:
            raise ValueError(f"{value!r} is not one of none, mig, shard, mps")


def _optional(check: Callable[[object], T]) -> PlainValidator:
    return PlainValidator(lambda value: None if value is None else check(value))


def _or_expression(check: Callable[[object], Any]) -> PlainValidator:
    return PlainValidator(lambda value: value if value is None or is_expression(value) else check(value))


_EXPRESSION = {"type": "string", "pattern": r"\{[\{%]"}


def _schema(*forms: Mapping[str, object]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [*forms, _EXPRESSION, {"type": "null"}]})


def _whole(minimum: int) -> dict[str, object]:
    return {"type": "integer", "minimum": minimum}


_positive, _natural = count_from(1), count_from(0)
_word = matching(_WORD, "a name as Slurm has them (letters, digits, `_ . @ + : -`)")
_words = matching(_WORDS, "a name, or several with commas (letters, digits, `_ . @ + : -`)")
_constraint = matching(_CONSTRAINT, "a constraint (features with `& | , ( ) [ ] *`, no spaces)")
_gpu_type = matching(_GPU_TYPE, "a GPU type as in gres.conf, such as a100 or a100_1g.10gb")

_WORD_SCHEMA = {"type": "string", "pattern": f"^{_WORD.pattern}$"}
_WORDS_SCHEMA = {"type": "string", "pattern": f"^{_WORDS.pattern}$"}
_POSITIVE = Annotated[int | str | None, _or_expression(_positive), _schema(_whole(1))]
_NAME = Annotated[str | None, _or_expression(_word), _schema(_WORD_SCHEMA)]
_NAMES = Annotated[str | None, _or_expression(_words), _schema(_WORDS_SCHEMA)]


class Gpus(BaseModel):
    """GPUs of every node of a job. For `mig` the type is the MIG type; for `shard` and `mps` the count is of shares."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, PlainValidator(_natural), WithJsonSchema(_whole(0))] = 0
    type: Annotated[str | None, _optional(_gpu_type)] = None
    share: Annotated[Share, PlainValidator(share_word), WithJsonSchema({"enum": ["none", "mig", "shard", "mps"]})] = (
        "none"
    )

    @model_validator(mode="after")
    def _mig_has_a_profile(self) -> Self:
        if self.share == "mig" and self.count and not (self.type and _MIG.search(self.type)):
            raise ValueError("share mig needs the MIG type of gres.conf as `type`, such as a100_1g.10gb")
        return self

    @property
    def gres(self) -> str | None:
        """The request as Slurm writes it: `gpu:a100:2`, `gpu:a100_1g.10gb:1`, `shard:4`, `mps:50`."""
        if not self.count:
            return None
        name = "gpu" if self.share in {"none", "mig"} else self.share
        return f"{name}:{self.type}:{self.count}" if self.type else f"{name}:{self.count}"


class Resources(BaseModel):
    """What one job asks for, worked out.

    `tasks` of the whole job, `cpus` a task, `memory` in MiB a node (0: all of it), `time` in minutes, `gpus` a node.
    None leaves the choice to Slurm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: Annotated[int, PlainValidator(_positive), WithJsonSchema(_whole(1))] = 1
    tasks: Annotated[int | None, _optional(_positive)] = None
    cpus: Annotated[int | None, _optional(_positive)] = None
    memory: Annotated[int | None, _optional(parse_memory)] = None
    time: Annotated[int | None, _optional(parse_time)] = None
    partition: Annotated[str | None, _optional(_words)] = None
    account: Annotated[str | None, _optional(_word)] = None
    qos: Annotated[str | None, _optional(_word)] = None
    constraint: Annotated[str | None, _optional(_constraint)] = None
    gpus: Gpus = Gpus()
    exclusive: Annotated[bool, PlainValidator(flag), WithJsonSchema({"type": "boolean"})] = False

    @model_validator(mode="after")
    def _tasks_fill_nodes(self) -> Self:
        if self.tasks is not None and self.tasks < self.nodes:
            raise ValueError(f"{self.tasks} tasks cannot use {self.nodes} nodes: ask for at least one a node")
        return self


class GpuRequest(BaseModel):
    """GPUs as a recipe asks for them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int | str, _or_expression(_natural), _schema(_whole(0))] = Field(
        0, description="How many, on every node; shares for `shard`, percent of a GPU for `mps`."
    )
    type: Annotated[
        str | None, _or_expression(_gpu_type), _schema({"type": "string", "pattern": f"^{_GPU_TYPE.pattern}$"})
    ] = Field(None, description="GPU type as in gres.conf (`a100`); with `share: mig` the MIG type (`a100_1g.10gb`).")
    share: Annotated[str, _or_expression(share_word), _schema({"enum": ["none", "mig", "shard", "mps"]})] = Field(
        "none", description="`none` for whole GPUs, `mig`, `shard` (time slices) or `mps`."
    )


class ResourceRequest(BaseModel):
    """Resources as a recipe asks for them: values, or expressions over the parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: _POSITIVE = Field(1, description="Nodes of the job. With more than one, the program runs once a node.")
    tasks: _POSITIVE = Field(None, description="Tasks of the whole job; unset: one a node.")
    cpus: _POSITIVE = Field(None, description="CPUs a task.")
    memory: Annotated[
        int | str | None,
        _or_expression(parse_memory),
        _schema(_whole(0), {"type": "string", "pattern": r"^\d+(\.\d+)?\s*([KMGTkmgt]?(i?[Bb])?)$"}),
    ] = Field(None, description="Memory a node: `16G`, `512M` or MiB; 0 for all of a node.")
    time: Annotated[int | str | None, _or_expression(parse_time), _schema(_whole(1), {"type": "string"})] = Field(
        None, description="Time limit: `2h`, `30m`, `1-00:00:00` or minutes."
    )
    partition: _NAMES = Field(None, description="Partition; several with commas. Unset: the cluster's default.")
    account: _NAME = Field(None, description="Slurm account. Unset: the cluster's or the user's default.")
    qos: _NAME = Field(None, description="QOS. Unset: the default.")
    constraint: Annotated[
        str | None, _or_expression(_constraint), _schema({"type": "string", "pattern": f"^{_CONSTRAINT.pattern}$"})
    ] = Field(None, description="Node features, as for `sbatch --constraint`, without spaces.")
    gpus: GpuRequest = Field(GpuRequest(), description="GPUs on every node.")
    exclusive: Annotated[bool | str, _or_expression(flag), _schema({"type": "boolean"})] = Field(
        default=False, description="Whole nodes, shared with no other job."
    )
