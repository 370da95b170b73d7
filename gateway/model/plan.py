"""A plan: a recipe with its answers worked out, which is all that later steps need. Kept with the session."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.model.jobspec import AbsolutePath, EnvName, Probe
from gateway.model.parameter import Value
from gateway.model.recipe import Affinity, Kind
from gateway.model.resources import Resources


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PinnedImage(_Part):
    """One image at one moment: its name, where it lies on the cluster, and what is in it."""

    name: str
    path: AbsolutePath
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class PlannedMount(_Part):
    """A path of the cluster (absolute, or relative to the user's home) in the container.

    Of a volume also its name and class, and the root that the path must lie `below`, whatever links there are.
    """

    source: str
    target: AbsolutePath
    writable: bool = False
    volume: str | None = None
    volume_class: str | None = None
    below: str | None = None


class PlannedReplicas(_Part):
    """How many jobs serve at a time; see the recipe's `service.replicas`. `scale_down_after` in seconds."""

    min: int = 1
    max: int = 1
    target_in_flight: int = 8
    scale_down_after: float = 600


class PlannedService(_Part):
    """How the service listens, what it serves, when it is ready, and how requests are spread over its replicas.

    `start_timeout` in seconds; `max_in_flight` is of one replica, `max_queue` of the session; None: the gateway's own.
    """

    listen: Literal["socket", "port"] = "socket"
    protocol: Literal["openai", "http"] = "http"
    model: str | None = None
    prefix: Literal["strip", "keep"] = "strip"
    probe: Probe
    start_timeout: float = 1800
    affinity: Affinity = "none"
    max_in_flight: int | None = None
    max_queue: int | None = None
    replicas: PlannedReplicas | None = None


class IdleRule(_Part):
    """Seconds; see the recipe's `lifecycle.idle`. `after` None: never."""

    connected: bool = False
    gpus: bool | None = None
    kernels: bool = False
    gpu_below: int | None = None
    after: float | None = None
    warn: float = 300


class PlannedLifecycle(_Part):
    """Seconds; see the recipe's `lifecycle`."""

    grace: float = 15
    kill_after: float = 30
    before_limit: float = 60
    requeue: bool = False
    renew: bool = False
    idle: tuple[IdleRule, ...] = ()


class Plan(_Part):
    """What shall run. `parameters` leaves secrets out; `secrets` says of each variable where its value comes from.

    That is the name of a parameter, or `secret:` and the name of a named secret.
    """

    recipe: str
    version: str
    digest: str
    kind: Kind
    image: PinnedImage
    parameters: dict[str, Value | None] = Field(default_factory=dict)
    resources: Resources = Resources()
    command: tuple[str, ...] | None = None
    script: str | None = None
    env: dict[EnvName, str] = Field(default_factory=dict)
    secrets: dict[EnvName, str] = Field(default_factory=dict)
    mounts: tuple[PlannedMount, ...] = ()
    service: PlannedService | None = None
    lifecycle: PlannedLifecycle = PlannedLifecycle()
    outputs: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)

    @property
    def replicas(self) -> PlannedReplicas:
        """How many jobs serve at a time: one, where nothing is said."""
        return (self.service.replicas if self.service is not None else None) or PlannedReplicas()


class ClusterDefaults(_Part):
    """What a cluster's settings give where neither recipe nor user says anything."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
