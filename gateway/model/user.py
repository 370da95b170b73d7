"""Users: people and service accounts, known by issuer and subject and by nothing else. Pure."""

import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.model.fixed import forbidden
from gateway.model.principal import EVERYTHING, Origin, Principal, Role, Scope
from gateway.model.token import Token

USER_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
UserName = Annotated[str, StringConstraints(pattern=USER_NAME)]
UNIX_NAME = r"^[a-z_][a-z0-9_.-]{0,31}$"
UnixName = Annotated[str, StringConstraints(pattern=UNIX_NAME)]
UserState = Literal["pending", "active", "disabled", "removed"]
UserKind = Literal["local", "person", "service"]

RESERVED = frozenset({"admin", "client-service", "me", "root"})
"""Names that mean somebody else here."""


class Identity(BaseModel):
    """How a provider calls somebody. An e-mail address or a user name is never part of it: those are given anew."""

    model_config = ConfigDict(frozen=True)

    issuer: str
    subject: str


class UnixAccount(BaseModel):
    """Who somebody is on a cluster; `uid` once it was looked up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cluster: str
    name: UnixName
    uid: int | None = None


class User(BaseModel):
    """A user as it is kept. `name` is for people and never given twice, also not after its owner has left."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: UserName
    kind: UserKind = "person"
    state: UserState = "active"
    title: str = ""
    email: str = ""
    admin: bool = False
    operator: bool = False
    groups: tuple[str, ...] = ()
    project: str | None = None
    note: str = ""
    created_at: datetime
    seen_at: datetime | None = None


class Person(BaseModel):
    """A user with everything that says what they may do."""

    model_config = ConfigDict(frozen=True)

    user: User
    projects: Mapping[str, Role] = {}
    unix: tuple[UnixAccount, ...] = ()

    def principal(self, *, token: Token | None = None, origin: Origin = "api") -> Principal:
        """The caller that this person is, narrowed to what a token says. Forbidden unless the user is active."""
        user = self.user
        if user.state != "active":
            raise forbidden(*_STATES[user.state])
        scopes = token.scopes if token is not None else EVERYTHING
        high = Scope.ADMIN in scopes
        return Principal(
            name=user.name,
            id=user.id,
            kind=user.kind,
            admin=user.admin and high,
            operator=user.operator and high,
            groups=frozenset(user.groups),
            projects=self.projects,
            scopes=scopes,
            unix={account.cluster: account.name for account in self.unix},
            session=token.session if token is not None else None,
            project=token.project if token is not None else None,
            token=token.id if token is not None else None,
            origin=origin,
        )


_STATES: Mapping[str, tuple[str, str]] = {
    "pending": (
        "fixed-pending",
        "you have signed in, and nobody has let you in yet: an operator sees your name in `sluice user list`",
    ),
    "disabled": ("fixed-state", "this account is switched off: ask an operator"),
    "removed": ("fixed-state", "this account was removed: ask an operator"),
}


class UserView(User):
    """A user as the API shows it."""

    unix: tuple[UnixAccount, ...] = ()
    projects: Mapping[str, Role] = {}
    identities: tuple[Identity, ...] = ()


class UserRequest(BaseModel):
    """What an operator can say of a user; what is left away stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["active", "disabled"] | None = Field(None, description="Let in, or keep out.")
    title: str | None = Field(None, max_length=200, description="The person's name in full.")
    admin: bool | None = Field(None, description="May do everything; only an administrator gives it.")
    operator: bool | None = Field(None, description="Sees all sessions, stops them, keeps users and projects.")
    unix: tuple[UnixAccount, ...] | None = Field(None, description="Unix users on clusters; they replace the old.")


class NewUser(UserRequest):
    """A user to be made before they sign in, or a service account of a project."""

    name: UserName = Field(description="Name; it cannot be changed later.", examples=["alice"])
    kind: Literal["person", "service"] = "person"
    project: str | None = Field(None, description="Of a service account: the project that owns it.")
    identity: Identity | None = Field(None, description="Issuer and subject by which they will sign in.")


class MeView(BaseModel):
    """Who the gateway takes you for."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    kind: UserKind
    admin: bool
    operator: bool
    groups: tuple[str, ...]
    projects: Mapping[str, Role]
    scopes: tuple[Scope, ...]
    unix: Mapping[str, str]
    session: str | None = None
    project: str | None = None
    token: str | None = None
    origin: Origin


_UNIX = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")


def check_unix(name: str, uid: int | None, *, floor: int, denied: Collection[str]) -> None:
    """Forbidden for root, for system users (a uid below `floor`), and for names that are `denied`."""
    if name == "root" or uid == 0:
        raise forbidden(
            "fixed-unix-root", "nothing runs as root here", "An operator gives you a Unix user: sluice user add."
        )
    if not _UNIX.fullmatch(name):
        raise forbidden("fixed-unix-name", f"{name!r} is no name of a Unix user")
    if name in denied:
        raise forbidden("fixed-unix-denied", f"nothing runs as the Unix user {name} here")
    if uid is not None and uid < floor:
        raise forbidden(
            "fixed-unix-floor", f"the Unix user {name} has the uid {uid}, and those below {floor} are the system's"
        )


def spelled(wanted: str, number: int) -> str:
    """A user name from what a provider says, the `number`th try; letters that it may not have are left out."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", wanted.partition("@")[0].lower()).strip("-._")[:55] or "user"
    return plain if number == 1 else f"{plain}-{number}"
