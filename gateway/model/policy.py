"""What policies decide about, and what they answer. Pure."""

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from gateway.model.api import SessionRequest, View
from gateway.model.parameter import Value
from gateway.model.plan import Plan
from gateway.model.principal import Origin, Role, Scope
from gateway.model.secret import SecretName
from gateway.model.session import Session
from gateway.model.token import LONGEST_DAYS
from gateway.model.volume import VolumeName, VolumeRequest

SessionAction = Literal[
    "create", "stop", "delete", "read", "logs", "script", "call", "open", "enter", "scale", "extend", "update", "resume"
]
KeptAction = Literal["see", "set", "remove", "use"]
PersonAction = Literal["user.create", "user.change", "user.remove", "user.take_on", "user.see_off"]
ProjectAction = Literal["project.create", "project.change", "project.archive", "member.set", "member.remove"]
TokenAction = Literal["token.create", "token.revoke"]
Action = Literal[SessionAction, KeptAction, PersonAction, ProjectAction, TokenAction]
SESSION_ACTIONS: Sequence[SessionAction] = get_args(SessionAction)
KEPT_ACTIONS: Sequence[KeptAction] = get_args(KeptAction)
PERSON_ACTIONS: Sequence[PersonAction] = get_args(PersonAction)
PROJECT_ACTIONS: Sequence[ProjectAction] = get_args(ProjectAction)
TOKEN_ACTIONS: Sequence[TokenAction] = get_args(TokenAction)
ACTIONS: Sequence[Action] = (*SESSION_ACTIONS, *KEPT_ACTIONS, *PERSON_ACTIONS, *PROJECT_ACTIONS, *TOKEN_ACTIONS)
_LONGEST = 2**63 - 1
_LARGEST = Decimal("922337203685477.5807")
_PLACES = Decimal("0.0001")


class Subject(BaseModel):
    """What is to be done something with: a session, or one that is asked for (`id` is empty then)."""

    model_config = ConfigDict(frozen=True)

    id: str = ""
    owner: str
    project: str
    labels: Mapping[str, str] = {}
    cluster: str
    plan: Plan


class Kept(BaseModel):
    """What is to be done something with: a secret or a volume, of somebody (`owner`) or of a project."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["Secret", "Volume"]
    id: str
    name: str
    owner: str | None = None
    project: str | None = None
    labels: Mapping[str, str] = {}
    cluster: str = ""
    volume_class: str = ""
    path: str = ""


class Ruled(BaseModel):
    """Somebody, a project or a token, as it is or is to be. `project` is the one whose roles count.

    `attributes` and `context` are as the schema says; values that are None are left out, and `references` are names
    of projects and users.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["Person", "Project", "Token"]
    id: str
    project: str | None = None
    labels: Mapping[str, str] = {}
    attributes: Mapping[str, str | bool | int | tuple[str, ...] | None] = {}
    references: Mapping[str, tuple[str, str]] = {}
    context: Mapping[str, str | tuple[str, ...]] = {}


Thing = Subject | Kept | Ruled


def subject_of(session: Session, labels: Mapping[str, str]) -> Subject:
    """A session, with the labels of its project."""
    return Subject(
        id=session.id,
        owner=session.owner,
        project=session.project,
        labels=labels,
        cluster=session.cluster,
        plan=session.plan,
    )


def text_of(value: Value) -> str:
    """An answer as policies compare it: one spelling for each value; lists with commas in brackets."""
    if isinstance(value, list):
        return f"[{', '.join(map(text_of, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def largest(value: Value) -> int | Decimal | None:
    """An answer as a number that Cedar can hold, of a list the largest; None if it is none. Rounded up, never down."""
    items = value if isinstance(value, list) else [value]
    numbers = [item for item in items if isinstance(item, (int, float)) and not isinstance(item, bool)]
    if not numbers or len(numbers) != len(items):
        return None
    most = max(numbers)
    if isinstance(most, int) or most.is_integer():
        return max(-_LONGEST, min(_LONGEST, int(most)))
    exact = max(-_LARGEST, min(_LARGEST, Decimal(str(most))))
    return exact.quantize(_PLACES, rounding=ROUND_CEILING)


class Reason(View):
    """A policy that decided, and what it says would be allowed."""

    policy: str = Field(description="The policy's @id.")
    allows: str = Field("", description="What would be allowed, in words.")
    asked: str = Field("", description="What was asked for instead, where that is one value.")
    where: str = Field("", description="File and line.")


About = Literal["session", "secret", "volume", "person", "project", "token"]


class Decision(View):
    """Whether something may be done, and by which policies."""

    allowed: bool
    action: Action
    about: About = "session"
    by: Literal["permit", "forbid", "none", "fault"] = Field(
        description="`permit` and `forbid`: by these policies; `none`: these would permit it; `fault`: these fail."
    )
    reasons: tuple[Reason, ...] = ()

    @property
    def policy(self) -> str:
        """The policy that decided first."""
        return self.reasons[0].policy if self.reasons else ""


class CheckRequest(BaseModel):
    """A question to the policies; nothing is done. Of what there is, or of what would be asked for.

    Sessions: `session`, or `request` for `create`. Secrets and volumes: `secret` or `volume`, in `project` or one's
    own. Users, projects and tokens: `on`, and what would be said of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action = Field("create", description="What would be done.")
    user: str | None = Field(None, description="As whom; unset: you. Operators ask about anybody.")
    origin: Origin | None = Field(None, description="As if it came from there.")
    hour: int | None = Field(None, ge=0, le=23, description="As if it were this hour.")
    weekday: int | None = Field(None, ge=1, le=7, description="As if it were this day; 1 is Monday.")
    session: str | None = Field(None, description="Id or name of a session, for all that is done with one.")
    request: SessionRequest | None = Field(None, description="What would be asked for, for `create`.")
    secret: SecretName | None = Field(None, description="Name of a secret, for `see`, `set`, `remove`, `use`.")
    volume: VolumeName | None = Field(None, description="Name of a volume, for the same.")
    place: VolumeRequest | None = Field(None, description="Where a volume would lie that is not there yet.")
    project: str | None = Field(None, description="The project of a secret, a volume, a service account or a token.")
    on: str | None = Field(None, description="The user, project or token; for `token.create` whose it would be.")
    changes: frozenset[str] = Field(
        frozenset(), description="What would be said: state, title, unix, admin, operator, labels, shares."
    )
    member: str | None = Field(None, description="Who would be taken in or let out, for `member.*`.")
    role: Role = Field(Role.MEMBER, description="As what, for `member.set`.")
    days: float = Field(30, gt=0, le=LONGEST_DAYS, description="For how long, for `token.create`.")
    scopes: frozenset[Scope] | None = Field(None, description="For what, for `token.create`.")


class PolicyProblem(View):
    """What is wrong with a file of policies."""

    file: str
    line: int
    column: int
    message: str


class PolicyView(View):
    """One policy in force."""

    id: str
    effect: str = Field(description="`permit`, `forbid`, or `fixed`: a rule of the gateway that no policy changes.")
    allows: str = Field("", description="What it allows, or leaves allowed, in words.")
    file: str = Field("", description="Where it stands; nothing for fixed rules.")
    line: int = 0
    text: str = Field(
        description="The policy in Cedar, of a limit what was made of it; of a fixed rule what says more."
    )
    limit: str | None = Field(None, description="The limit that it was made from.")


class PolicyPage(View):
    """The policies in force, and what is wrong with files that were changed since."""

    items: list[PolicyView]
    problems: list[PolicyProblem] = Field(default_factory=list)
    loaded_at: str = Field("", description="Since when this set is in force (RFC 3339).")
    next: str | None = None


class FileCheck(BaseModel):
    """A file of policies to be looked at; it does not come into force."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("policy.cedar", description="Its name: `.cedar`, or `.toml` for limits.", max_length=200)
    text: str = Field(description="What is in it.", max_length=262_144)


Schema = dict[str, Any]
