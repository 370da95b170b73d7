"""What the agent in a job is told to do: plain JSON inside the job script, read by gateway.agent.

The agent uses the standard library only and reads the JSON as it is; every field, its unit and its default
stand here and nowhere else. Times are in seconds. A job's owner and Slurm's administrators can read the spec:
it never holds a secret.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

VERSION: Literal[1] = 1

#: Set by the agent or refused by Apptainer; a recipe cannot give them.
RESERVED_ENV = frozenset({"HOME", "PWD", "SHLVL", "_"})
RESERVED_PREFIXES = ("SLUICE_", "APPTAINER", "SINGULARITY", "SLURM_")


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("a NUL character cannot be passed to a program")
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/") or "\n" in value or ".." in value.split("/"):
        raise ValueError("an absolute path without '..' or a line break is needed")
    return _no_nul(value)


def _mountable(value: str) -> str:
    if not value or "\n" in value or ".." in value.split("/") or value.startswith("~"):
        raise ValueError("a path without '..', '~' or a line break is needed")
    return _no_nul(value)


def _not_reserved(value: str) -> str:
    if value in RESERVED_ENV or value.startswith(RESERVED_PREFIXES):
        raise ValueError(f"{value} is set by Sluice, Slurm or Apptainer itself")
    return value


Text = Annotated[str, AfterValidator(_no_nul)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
ClusterPath = Annotated[str, AfterValidator(_mountable)]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_not_reserved)]
UrlPath = Annotated[str, StringConstraints(pattern=r"^/[!-~]*$")]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bind(_Part):
    """A directory or file of the cluster (absolute, or relative to the user's home) shown in the container.

    With `below` it is a volume: it must lie below that place once all links are followed, and a directory that is not
    there yet is made where the program may write.
    """

    source: ClusterPath
    target: AbsolutePath
    read_only: bool = False
    below: ClusterPath | None = None


class Container(_Part):
    """What runs, and in which image. Exactly one of `command` and `script` is given.

    `command` is the argument list, passed as it is. `script` is the text of a file that is run by the program
    of its `#!` line, else by bash, else by sh. `image` is an absolute path of a SIF file or of a sandbox
    directory; with `verify` the agent computes the SHA-256 of a SIF file before it starts (about 1 s per GB).
    """

    image: AbsolutePath
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    verify: bool = False
    gpu: Literal["none", "nvidia", "amd"] = "none"
    binds: tuple[Bind, ...] = ()
    command: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    script: Text | None = None
    env: dict[EnvName, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.command is None) == (self.script is None):
            raise ValueError("give exactly one of command and script")
        if self.verify and self.sha256 is None:
            raise ValueError("verify needs sha256")
        return self


class HttpProbe(_Part):
    """Ready when GET `path` answers with `status`."""

    kind: Literal["http"] = "http"
    path: UrlPath = "/health"
    status: int = 200
    timeout: Seconds = 10


class CompletionProbe(_Part):
    """Ready when a real one-token completion of `model` succeeds: a model server's health page says less."""

    kind: Literal["completion"] = "completion"
    path: UrlPath = "/v1/completions"
    model: Text
    timeout: Seconds = 120


class TcpProbe(_Part):
    """Ready when the service accepts a connection."""

    kind: Literal["tcp"] = "tcp"
    timeout: Seconds = 10


Probe = Annotated[HttpProbe | CompletionProbe | TcpProbe, Field(discriminator="kind")]


class Activity(_Part):
    """What the agent watches besides requests, so that a service at work is not stopped for being idle.

    `kernels`: those of a Jupyter server, and its terminals. `gpu_below`: the job's GPUs, which are in use from so
    many per cent on.
    """

    kernels: bool = False
    gpu_below: Annotated[int, Field(ge=1, le=100)] | None = None


class Service(_Part):
    """How the service listens and when it counts as ready.

    `socket`: on the Unix socket $SLUICE_SOCKET. `port`: on 127.0.0.1:$SLUICE_PORT, which other users of the
    node can reach too, so only for services that know no sockets and check a key of their own. `prefix`, if there is
    one, is what every path that it is asked for begins with: its $SLUICE_PREFIX.
    """

    listen: Literal["socket", "port"] = "socket"
    probe: Probe
    prefix: UrlPath | Literal[""] = ""
    start_timeout: Seconds = 1800
    probe_interval: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    activity: Activity | None = None


class Stop(_Part):
    """How a job is ended.

    Requests in flight get up to `grace`; `kill_after` counts from the request to stop until nothing of the job
    is left (keep it at or below the site's KillWait). The stop begins `before_limit` before the time limit (a tenth
    of the job's time at most; 0: never), and then a program has until the limit.
    """

    grace: Seconds = 15
    kill_after: Annotated[float, Field(ge=2, allow_inf_nan=False)] = 30
    before_limit: Seconds = 60


class JobSpec(_Part):
    """One job.

    `directory` is the session directory, absolute or relative to the user's home (from the password database;
    never expanded by a shell). `launcher` is a prefix of the container's command for several tasks (`srun
    --ntasks-per-node=1 …`); the session directory must then be on a file system that all nodes share.

    `secrets` are names: their values are staged as `<directory>/secrets.json` ({"NAME": "value"}, 0600), or
    pushed over the control channel within `secrets_timeout` of the job's start. `client_ca` is the PEM of the CA
    whose certificates the relay admits. `comment_field` is the job's field that carries the announcement;
    `gateway` is the name in it of the gateway that submitted the job. With `requeue` Slurm may start the job again,
    and the staged secrets are kept until it has ended for good.
    """

    version: Literal[1] = VERSION
    session: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z]{1,64}$")]
    attempt: Annotated[int, Field(ge=1)] = 1
    kind: Literal["service", "batch"]
    directory: Text
    container: Container
    launcher: tuple[Text, ...] = ()
    service: Service | None = None
    stop: Stop = Stop()
    secrets: tuple[EnvName, ...] = ()
    secrets_timeout: Seconds = 300
    client_ca: str = ""
    comment_field: Literal["comment", "extra"] = "comment"
    gateway: Annotated[str, StringConstraints(pattern=r"^[0-9a-z]{0,32}$")] = ""
    requeue: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.kind == "service") != (self.service is not None):
            raise ValueError("a service job has a service, a batch job has none")
        if self.kind == "service" and not self.client_ca:
            raise ValueError("a service job needs client_ca")
        parts = self.directory.split("/")
        if not self.directory or ".." in parts or self.directory.startswith("~") or ":" in self.directory:
            raise ValueError("directory: absolute, or relative to the home directory, without '..', '~' and ':'")
        return self
