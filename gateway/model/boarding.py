"""Taking somebody on and seeing them off: what is asked, and every step of it with what became of it. Pure."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.model.principal import Role
from gateway.model.project import ProjectName
from gateway.model.user import Identity, UnixName

Outcome = Literal["done", "already", "would", "later", "failed"]


class Step(BaseModel):
    """One thing on the way. `already`: nothing was to do. `would`: a dry run. `later`: run it again for this."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    what: str
    outcome: Outcome
    message: str = ""


class BoardRequest(BaseModel):
    """Somebody to be taken on, in one project, on every cluster where the project has an account."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: ProjectName
    role: Role = Role.MEMBER
    unix: dict[str, UnixName] = Field({}, description="Unix user on a cluster; unset: called as the user is.")
    identity: Identity | None = Field(None, description="Issuer and subject by which they will sign in.")
    dry_run: bool = Field(default=False, description="Say what would be done, and do nothing.")


class LeaveRequest(BaseModel):
    """Somebody to be seen off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dry_run: bool = Field(default=False, description="Say what would be done, and do nothing.")
    archive: bool = Field(default=True, description="Pack their session directories into one file in their home.")


class BoardView(BaseModel):
    """What was done. `complete`: nothing is left to do; else run it again."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    user: str
    complete: bool
    steps: tuple[Step, ...]
