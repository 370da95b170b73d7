"""What travels over /api/v1: requests and views, shared by server, SDK and command line."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.model.inventory import Gpus, Node, Partition
from gateway.model.session import Condition
from gateway.model.volume import VolumeUse

T = TypeVar("T")


class View(BaseModel):
    """An answer: readers ignore fields that they do not know, so the server may be newer."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ScaleRequest(BaseModel):
    """How many jobs shall serve a session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: int = Field(description="At least so many; 0: none while nobody asks for anything.", ge=0, le=64)
    max: int | None = Field(None, description="At most so many; unset: as `min`, and at least 1.", ge=1, le=64)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError("`max` is less than `min`")
        return self

    @property
    def most(self) -> int:
        """`max`, worked out."""
        return self.max if self.max is not None else max(1, self.min)


class SessionRequest(BaseModel):
    """A session to be started. `resources` overrides the recipe's: nodes, cpus, memory, time, partition, gpus, ..."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field(description="Name of the recipe.", examples=["llama-cpp"])
    version: str | None = Field(None, description="Version of the recipe; unset: the newest.")
    name: str | None = Field(
        None,
        description="Name of the session, unique among your live ones; unset: made from the recipe's.",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    )
    project: str | None = Field(
        None,
        description="Project that the session belongs to; unset: yours, if you have one.",
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
    )
    cluster: str | None = Field(None, description="Cluster to run on; unset: the default one.")
    parameters: Mapping[str, Any] = Field(
        {}, description="Answers to the recipe's parameters.", examples=[{"context": 512}]
    )
    resources: Mapping[str, Any] = Field(
        {}, description="Overrides of the recipe's resources.", examples=[{"time": "30m"}]
    )
    labels: Mapping[str, str] = Field({}, description="Labels of your own.")
    volumes: tuple[VolumeUse, ...] = Field((), description="Volumes that it mounts.", max_length=32)
    replicas: ScaleRequest | None = Field(None, description="How many jobs shall serve it; unset: as its recipe says.")
    renew: bool | None = Field(
        None, description="Whether it goes on in another job before its time limit; unset: as its recipe says."
    )


class ExtendRequest(BaseModel):
    """How long a session shall not be stopped for being idle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: int = Field(description="From now on.", ge=60, le=30 * 86400)


class UpdateRequest(BaseModel):
    """What shall be different in a session that runs; what is not said stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str | None = Field(None, description="Version of the recipe; unset: the newest.")
    parameters: Mapping[str, Any] = Field({}, description="Answers to parameters.", examples=[{"context": 4096}])
    resources: Mapping[str, Any] = Field({}, description="Resources.", examples=[{"time": "2h"}])
    image: str | None = Field(None, description="Another image; unset: the newest of the recipe's.")


class ScriptView(View):
    """What was sent, or would be sent, to Slurm: the script and the options in Slurm's terms."""

    script: str
    options: Mapping[str, Any]
    image: str = Field("", description="Path of the image on the cluster.")
    sha256: str = Field("", description="Digest of the image.")


class JobView(View):
    attempt: int
    name: str
    job_id: int | None
    state: str | None = Field(description="Slurm's base state.")
    reason: str
    nodes: str
    exit_code: int | None
    signal: int | None
    restarts: int
    time_limit: int | None = Field(None, description="Minutes, as Slurm has it now; null: none.")
    submitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None


class ReplicaView(JobView):
    """One of the jobs of a session."""

    role: str = Field(description="primary, successor or replica")
    phase: str
    message: str
    draining: bool = Field(description="It gets no new requests.")
    image_sha256: str
    ready_at: datetime | None


class ReplicasView(View):
    """How many jobs shall serve the session."""

    min: int
    max: int


class SessionView(View):
    id: str
    name: str
    owner: str
    project: str
    cluster: str
    unix_user: str
    recipe: str
    recipe_version: str
    kind: Literal["service", "batch"]
    phase: str = Field(description="requested queued starting ready|running stopping succeeded failed stopped")
    reason: str = Field(description="A stable word: Slurm's pending reason, or why the session ended.")
    message: str = Field(description="A sentence for people.")
    ended: bool
    conditions: Mapping[str, Condition]
    model: str | None = Field(None, description="Model name under which /v1 serves it.")
    image: str
    image_sha256: str
    parameters: Mapping[str, Any]
    resources: Mapping[str, Any]
    labels: Mapping[str, str]
    replicas: ReplicasView | None = Field(None, description="How many jobs serve it; null: one.")
    stop_requested: bool
    created_at: datetime
    updated_at: datetime
    ready_at: datetime | None
    ended_at: datetime | None
    keep_until: datetime | None = Field(None, description="Before then it is not stopped for being idle.")
    job: JobView
    queue_position: int | None = Field(None, description="Place among the pending jobs of the partition, 1 is next.")


class Page(View, Generic[T]):
    """One page of a list; pass `next` as `cursor` to get the following one."""

    items: list[T]
    next: str | None = None


class EventView(View):
    id: int
    session: str
    type: str = Field(examples=["session.phase"])
    at: datetime
    data: Mapping[str, Any]


class RecipeView(View):
    name: str
    version: str
    title: str
    description: str
    kind: Literal["service", "batch"]
    image: str
    deprecated: bool = False
    labels: Mapping[str, str] = {}


class RecipeProblem(View):
    """A recipe file that could not be read; the rest of the catalogue is served."""

    file: str
    message: str


class RecipePage(Page[RecipeView]):
    """The catalogue, and the files in it that could not be read."""

    problems: list[RecipeProblem] = []


class RecipeDetail(RecipeView):
    """A recipe with everything in it."""

    versions: list[str] = Field(description="All versions, newest first.")
    recipe: Mapping[str, Any] = Field(description="The recipe as its file says it.")


class LogChunk(View):
    """A piece of a log. Ask again with `offset=next` to go on."""

    file: str
    offset: int
    next: int
    size: int
    text: str


class OpeningView(View):
    """`url` opens a session in a browser, once; it starts at the gateway's address."""

    url: str
    expires_at: datetime


class ClusterView(View):
    name: str
    backend: str
    version: str
    reachable: bool
    message: str
    polled_at: datetime | None
    partitions: list[Partition]
    nodes: list[Node]
    gpus: list[Gpus]


class HealthView(View):
    status: Literal["ok", "degraded"]
    version: str
    checks: Mapping[str, str]


class Problem(View):
    """RFC 9457 problem details, with our stable `code`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str = ""
    retryable: bool = False
    instance: str = ""
    request_id: str = ""
