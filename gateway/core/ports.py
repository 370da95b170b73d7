"""What core needs of the world: Slurm, a cluster's files, the agent in a job. Adapters on the floor above fit these."""

import socket
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from gateway.model.announcement import Endpoint
from gateway.model.doctor import Association, Load
from gateway.model.inventory import Inventory
from gateway.model.job import JobScript, SeenJob


class SchedulerInfo(BaseModel):
    """Which Slurm answered, and how it was asked."""

    model_config = ConfigDict(frozen=True)

    cluster: str
    version: str
    backend: str


class Scheduler(Protocol):
    """One Slurm. Every call may raise SchedulerUnavailable, which says nothing about any job."""

    async def submit(self, script: JobScript, user: str) -> int:
        """Submit as the Unix user; the job id.

        SubmitRefused: final (Slurm's words in the message). SubmitDeferred: a limit, try later.
        SchedulerUnavailable: certainly not submitted. SubmitUnknown: the answer was lost; look it up by name.
        """

    async def look(self, job_ids: Collection[int], awaited: Collection[int] = ()) -> Mapping[int, SeenJob]:
        """Queue first, then accounting for those that left it. An id that neither knows is left out.

        States are as they are now; the rest of a job whose state did not change may be a minute old, or more where
        there are very many. Of those in `awaited` news is expected that changes no state, so they are asked first.
        """

    async def find(self, name: str, user: str) -> SeenJob | None:
        """A job of the user by its name, in queue or accounting; None only if both answered and neither has it."""

    async def mine(self, users: Collection[str]) -> Sequence[SeenJob]:
        """The live jobs of these users whose names begin with JOB_NAME_PREFIX, whoever submitted them.

        Asked seldom, and never answered with the list of everybody's jobs. What it says may be some seconds old and
        lack the comment: `look` before anything is done to such a job. A user that Slurm does not know has none.
        """

    async def terminate(self, job_id: int, user: str) -> None:
        """Send SIGTERM to a running job's batch script alone, as its owner: the script ends the job in good order.

        No error if it has ended already; Forbidden if Slurm refuses.
        """

    async def cancel(self, job_id: int, user: str) -> None:
        """End a job as its owner, every process of it at once. No error if it has ended already; else Forbidden."""

    async def inventory(self) -> Inventory: ...

    async def info(self) -> SchedulerInfo: ...

    async def close(self) -> None: ...


class Inspection(Protocol):
    """What a cluster says of itself to `sluice doctor`; asked by hand, never on a schedule.

    Every call may raise SchedulerUnavailable. `str()` of it names the place that answers.
    """

    @property
    def by_shell(self) -> bool:
        """It runs commands as the user, so it tells nothing where the user is not let in."""

    async def configuration(self) -> Mapping[str, str]:
        """Slurm's configuration, by the names of `scontrol show config`."""

    async def associations(self, user: str) -> Sequence[Association]:
        """The user's associations, from slurmdbd; those of other clusters of the same database may be among them."""

    async def now(self) -> datetime:
        """The clock there, in UTC; whole seconds are enough."""


@runtime_checkable
class Statistics(Protocol):
    """An Inspection that also tells how busy slurmctld is. It may raise SchedulerUnavailable."""

    async def load(self) -> Load: ...


class Accounts(Protocol):
    """Slurm's accounting of one cluster, kept as an operator of Slurm. Any call may raise SchedulerUnavailable."""

    async def held(self, user: str) -> Sequence[Association]:
        """The user's associations on this cluster."""

    async def add(self, user: str, account: str, qos: Sequence[str]) -> None:
        """Let the user run under the account, with these QOS at least. No error if they may; Forbidden if refused."""

    async def remove(self, user: str, accounts: Collection[str]) -> None:
        """Take these away. No error if there is nothing to take; Conflict while they have jobs under one."""


class Tunnel(Protocol):
    """TCP to a cluster's nodes through its login node. `str()` of it names that."""

    async def open(self, host: str, port: int) -> socket.socket:
        """A connected stream socket that does not block. OSError as the system there says it, or of the login node."""

    async def close(self) -> None: ...


class Way(Protocol):
    """How a cluster's nodes are reached."""

    @property
    def words(self) -> str:
        """How they are reached now, for people: `directly`."""

    async def open(self, host: str, port: int) -> socket.socket:
        """A connected stream socket that does not block. OSError."""

    async def close(self) -> None: ...


class Net(Protocol):
    """The network as this process sees it."""

    @property
    def words(self) -> str:
        """How nodes are reached, as far as is known: `directly`."""

    async def resolve(self, name: str) -> str | None:
        """An address of the host, or None if the name is not known here."""

    async def dial(self, address: str, port: int, *, read: int = 0) -> bytes:
        """Connect by TCP and read so many bytes. OSError as the system says it, TimeoutError after some seconds."""


class FileStat(BaseModel):
    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    mode: int
    modified: datetime
    directory: bool


class Files(Protocol):
    """A cluster's files, reached as the Unix user; relative paths start at the user's home.

    Any call may raise FilesUnavailable, NotFound or Forbidden.
    """

    async def read(self, user: str, path: str, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """At most `limit` bytes from `offset`; a negative offset counts from the end."""

    async def write(self, user: str, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """Write atomically (temporary file, rename); missing parent folders are made 0700."""

    async def stat(self, user: str, path: str) -> FileStat | None: ...

    async def list(self, user: str, path: str) -> Sequence[FileStat]: ...

    async def remove(self, user: str, path: str) -> None:
        """Remove a file or a whole folder; no error if it is not there."""

    async def upload(self, user: str, local: str, path: str, *, mode: int = 0o644) -> None:
        """Copy a local file of any size in constant memory, atomically."""

    async def close(self) -> None: ...


class AgentStatus(BaseModel):
    """What an agent says of its service. `quiet`: seconds since what it was to watch did something, by what it is."""

    model_config = ConfigDict(frozen=True)

    phase: str
    in_flight: int
    idle_seconds: float
    requests: int
    quiet: Mapping[str, float] = {}


class Agents(Protocol):
    """The control channel to the agents of jobs.

    EndpointUnavailable if the agent cannot be reached or does not show the announced certificate.
    """

    async def status(self, endpoint: Endpoint) -> AgentStatus: ...

    async def push(self, endpoint: Endpoint, secrets: Mapping[str, str]) -> None:
        """Hand over the values that the agent waits for, by variable."""


class Vault(Protocol):
    """Seals what must not be read in the database. Every sealed text names its key."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The names of the keys, the current one first."""

    @property
    def current(self) -> str: ...

    @property
    def in_file(self) -> bool:
        """Whether keys can be made and forgotten here."""

    def seal(self, text: str, about: str) -> str:
        """Sealed with the current key, so that it opens for `about` alone."""

    def open_sealed(self, sealed: str, about: str) -> str:
        """Unavailable if its key is not there, or if it was changed or moved."""

    def add(self) -> str:
        """Make another key the current one; its name."""

    def forget(self, unused: Collection[str]) -> None:
        """Drop keys that nothing is sealed with any more."""


class CommandResult(BaseModel):
    model_config = ConfigDict(frozen=True)

    returncode: int
    stdout: str
    stderr: str


class Shell(Protocol):
    """Runs programs on a machine as a Unix user: the login node, the build host, or here. Argument lists only."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        user: str,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the far side must be told to end, too
        on_line: "LineHandler | None" = None,
    ) -> CommandResult: ...

    async def close(self) -> None: ...


class LineHandler(Protocol):
    def __call__(self, line: str, /) -> None: ...


class Clock(Protocol):
    def __call__(self) -> datetime:
        """Now, in UTC."""
