"""Where a session belongs: its project, the project's account on the cluster, and the person's own Unix user."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core import unix
from gateway.core.context import Cluster, Gateway
from gateway.core.policies import denial
from gateway.errors import Conflict, Invalid
from gateway.model.fixed import forbidden
from gateway.model.plan import ClusterDefaults
from gateway.model.principal import Principal, Role
from gateway.model.project import DEFAULT, Share
from gateway.model.resources import Resources
from gateway.settings import ClusterSettings
from gateway.store import projects


@dataclass(frozen=True)
class Placement:
    """A project, what it has on the cluster (None in single-user mode: the cluster's settings hold), and who runs."""

    project: str
    share: Share | None
    unix_user: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def defaults(self, settings: ClusterSettings) -> ClusterDefaults:
        """What holds where neither recipe nor person says anything."""
        if self.share is None:
            return ClusterDefaults(partition=settings.default_partition, account=settings.account, qos=settings.qos)
        allowed = self.share.partitions
        usual = settings.default_partition
        return ClusterDefaults(
            partition=usual if not allowed or usual in allowed else allowed[0],
            account=self.share.account,
            qos=self.share.qos[0] if self.share.qos else None,
        )

    def check(self, asked: Resources) -> None:
        """Forbidden if a session asks for another account, or a QOS or partition that is not the project's."""
        if self.share is not None:
            self.share.check(self.project, asked)


async def place(gateway: Gateway, caller: Principal, name: str | None, cluster: Cluster) -> Placement:
    """Where a new session of the caller's belongs. ProjectNotFound, Forbidden with what is missing."""
    project = await gateway.db.read(projects.get, caller, name or choose(caller))
    if not caller.has_role(project.name, Role.MEMBER):
        raise denial(
            gateway.policies.lacking("create"),
            f"you are a viewer of project {project.name}: viewers read, and start nothing",
            f"A manager can change that: sluice project member {project.name} {caller.name} --role member",
        )
    if project.state != "active":
        raise Conflict(f"project {project.name} is archived: nothing new starts in it")
    share = project.share(cluster.name)
    if share is None and caller.kind != "local" and project.name != DEFAULT:
        raise forbidden(
            "fixed-account",
            f"project {project.name} has no Slurm account on cluster {cluster.name}",
            f"An operator gives it one: sluice project set {project.name} --account {cluster.name}=ACCOUNT",
        )
    return Placement(project.name, share, await unix.user_of(gateway, caller, cluster), project.labels)


def choose(caller: Principal) -> str:
    """The project of who names none. Invalid if that could be several."""
    if caller.project is not None:
        return caller.project
    mine = sorted(name for name in caller.projects if caller.has_role(name, Role.MEMBER))
    if caller.kind == "local" or DEFAULT in mine:
        return DEFAULT
    if not mine:
        raise forbidden(
            "fixed-member", "you are not a member of any project", "A manager of a project can take you in."
        )
    if len(mine) > 1:
        raise Invalid("say for which project", hint=f"One of: {', '.join(mine)} (--project).")
    return mine[0]
