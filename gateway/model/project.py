"""Projects: who works together, and under which Slurm account on each cluster. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.model.fixed import forbidden
from gateway.model.principal import Role
from gateway.model.resources import Resources

DEFAULT = "default"
"""The project that is always there: single-user mode needs no other."""

ProjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
SlurmWord = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,62}$")]
ProjectState = Literal["active", "archived"]


class Share(BaseModel):
    """What a project has on a cluster: its Slurm account, and the QOS and partitions it may use (none named: any).

    The first QOS and the first partition are used where a session asks for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cluster: str
    account: SlurmWord
    qos: tuple[SlurmWord, ...] = ()
    partitions: tuple[SlurmWord, ...] = ()

    def check(self, project: str, asked: Resources) -> None:
        """Forbidden if a session asks for what is not the project's."""
        if asked.account != self.account:
            raise forbidden(
                "fixed-shares",
                f"project {project} runs under the account {self.account} on cluster {self.cluster}, "
                f"not under {asked.account}",
                "Leave the account away, or choose another --project.",
            )
        self._check("QOS", project, (asked.qos,) if asked.qos else (), self.qos)
        partitions = asked.partition.split(",") if asked.partition else ()
        self._check("partition", project, partitions, self.partitions)

    def _check(self, kind: str, project: str, asked: Sequence[str], allowed: Sequence[str]) -> None:
        outside = [word for word in asked if word not in allowed] if allowed else []
        if outside:
            raise forbidden(
                "fixed-shares",
                f"project {project} may not use the {kind} {', '.join(outside)} on cluster {self.cluster}",
                f"It may use: {', '.join(allowed)}.",
            )


class Member(BaseModel):
    """Somebody in a project. `source`: `groups` where the provider's groups say so, and take it away again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str
    role: Role
    source: Literal["manual", "groups"] = "manual"


class Project(BaseModel):
    """A project as it is kept."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: ProjectName
    title: str = ""
    state: ProjectState = "active"
    labels: Mapping[str, str] = {}
    shares: tuple[Share, ...] = ()
    created_at: datetime

    def share(self, cluster: str) -> Share | None:
        return next((share for share in self.shares if share.cluster == cluster), None)


class ProjectView(Project):
    """A project as the API shows it to those who may know of it."""

    role: Role | None = Field(None, description="Your role in it.")
    members: tuple[Member, ...] = ()


class ProjectRequest(BaseModel):
    """What can be said about a project; what is left away stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str | None = Field(None, max_length=200, description="A line about it.")
    labels: Mapping[str, str] | None = Field(None, description="Labels; they replace those that were there.")
    shares: tuple[Share, ...] | None = Field(None, description="Accounts on clusters; they replace what was there.")


class NewProject(ProjectRequest):
    """A project to be made."""

    name: ProjectName = Field(description="Its name; it cannot be changed later.", examples=["physics"])


class MemberRequest(BaseModel):
    """A place in a project."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role = Field(Role.MEMBER, description="viewer reads, member also has sessions, manager has them all.")
