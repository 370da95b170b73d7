"""Who is calling, and what that lets them do with a session. Pure: every answer is one look at this value."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import Forbidden


class Role(StrEnum):
    """What a member of a project may do: a viewer reads, a member also has sessions, a manager has them all."""

    VIEWER = "viewer"
    MEMBER = "member"
    MANAGER = "manager"

    def reaches(self, wanted: "Role") -> bool:
        return _RANK[self] >= _RANK[wanted]


_RANK = {Role.VIEWER: 0, Role.MEMBER: 1, Role.MANAGER: 2}


class Scope(StrEnum):
    """What a token lets its holder do, of what the person behind it may."""

    READ = "sessions:read"
    WRITE = "sessions:write"
    INFERENCE = "inference"
    ADMIN = "admin"


EVERYTHING = frozenset(Scope)
#: The shipped policy that says of each scope what is not done without it.
SCOPE_POLICIES: Mapping[Scope, str] = {
    Scope.READ: "token-read",
    Scope.WRITE: "token-write",
    Scope.INFERENCE: "token-inference",
    Scope.ADMIN: "token-admin",
}
Origin = Literal["api", "cli", "browser", "socket", "kubernetes"]


class Owned(Protocol):
    """A session, or a route to one: what a decision about it needs to know."""

    @property
    def id(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def project(self) -> str: ...


class SignedIn(NamedTuple):
    """What somebody is signed in by: who vouches for whom, and in which session of theirs, where that is known.

    `key`: what a browser's sign-in is kept under; a terminal's is not kept.
    """

    issuer: str
    subject: str
    sid: str | None = None
    key: str | None = None


class Principal(BaseModel):
    """An authenticated caller.

    `kind`: `local` is who holds the gateway's own token (single-user mode), `service` an account owned by a project.
    `unix` is the person's Unix user on each cluster. `session` and `project` are what a token is held to, if it is;
    `token` is its id; `sign_in` is there for who shows what a provider or MUNGE gave. `admin` and `operator` are global
    roles, and only there while the scope `admin` is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    id: str = ""
    kind: Literal["local", "person", "service"] = "person"
    admin: bool = False
    operator: bool = False
    groups: frozenset[str] = frozenset()
    projects: Mapping[str, Role] = {}
    scopes: frozenset[Scope] = EVERYTHING
    unix: Mapping[str, str] = {}
    session: str | None = None
    project: str | None = None
    token: str | None = None
    origin: Origin = "api"
    sign_in: SignedIn | None = Field(None, repr=False)

    @property
    def everywhere(self) -> bool:
        """Whether their reading ends at no project's border."""
        return self.admin or self.operator

    def require(self, scope: Scope) -> None:
        """Forbidden if the token lacks the scope."""
        if scope not in self.scopes:
            raise Forbidden(
                f"this token lacks the scope {scope.value!r}",
                hint=f"Allowed: tokens with that scope; this one has: {', '.join(sorted(self.scopes)) or 'none'}. "
                "`sluice token create` makes another.",
                policy=SCOPE_POLICIES[scope],
            )

    def role_in(self, project: str) -> Role | None:
        """Their role in a project, as far as the token reaches."""
        if self.project is not None and self.project != project:
            return None
        return Role.MANAGER if self.admin else self.projects.get(project)

    def has_role(self, project: str, wanted: Role) -> bool:
        role = self.role_in(project)
        return role is not None and role.reaches(wanted)

    def sees(self, what: Owned) -> bool:
        """May know of it and read it: their own, all of their projects; operators all. `visible_to` says it in SQL."""
        return self._holds(what) and (self.everywhere or what.owner == self.name or what.project in self.projects)

    def changes(self, what: Owned) -> bool:
        """May stop and delete it: their own; managers all of the project; operators all."""
        return self._holds(what) and (
            self.everywhere or what.owner == self.name or self.has_role(what.project, Role.MANAGER)
        )

    def calls(self, what: Owned) -> bool:
        """May ask the model that it serves: their own, and those of projects that they are at least members of."""
        return self._holds(what) and (what.owner == self.name or self.has_role(what.project, Role.MEMBER))

    def enters(self, what: Owned) -> bool:
        """May open its pages: whoever does acts as its owner, on the node and in the browser. So the owner alone."""
        return self._holds(what) and what.owner == self.name

    def _holds(self, what: Owned) -> bool:
        """Whether the token reaches it."""
        return (self.session is None or self.session == what.id) and (
            self.project is None or self.project == what.project
        )


class Opened(NamedTuple):
    """What lets a browser into one session: the session's id, and the name of its owner, as whom it acts.

    `token`: the id of the Sluice token that it was opened with, `sign_in`: the key of the sign-in in which it was
    opened; it is good no longer than these.
    """

    session: str
    owner: str
    token: str | None = None
    sign_in: str | None = None


#: Who holds the token in the state directory. Their jobs run as the Unix user in the cluster's settings.
LOCAL_ADMIN = Principal(name="admin", id="local", kind="local", admin=True, projects={"default": Role.MANAGER})
