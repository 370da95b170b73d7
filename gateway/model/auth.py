"""How to sign in at a gateway: what it tells those who have no token yet."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

MUNGE_PURPOSE = "sluice"
"""What a MUNGE credential for a gateway says that it is for, so that one made for something else lets nobody in."""


class MungeView(BaseModel):
    """How to show who one is by MUNGE."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    uid: int = Field(description="Uid that alone may decode the credential: `munge --restrict-uid`.")


class MungeRequest(BaseModel):
    """A credential that says whose process made it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    credential: str = Field(description='Of `munge`, over `{"purpose", "audience"}`; good once.', max_length=4096)


class MungeToken(BaseModel):
    """What a MUNGE credential gives."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    token: str = Field(description="Bearer token.")
    expires_at: datetime


class AuthView(BaseModel):
    """The identity provider, if there is one, and what to ask of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    issuer: str | None = Field(None, description="The provider; null: there is none.")
    client_id: str | None = Field(None, description="Client id for programs on a terminal.")
    scopes: tuple[str, ...] = ()
    audience: str | None = Field(None, description="To be asked for as `resource`, so that the token is for us.")
    munge: MungeView | None = Field(None, description="How MUNGE lets people in; null: it does not.")
