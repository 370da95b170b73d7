"""How to sign in at a gateway: what it tells those who have no token yet."""

from pydantic import BaseModel, ConfigDict, Field


class AuthView(BaseModel):
    """The identity provider, if there is one, and what to ask of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    issuer: str | None = Field(None, description="The provider; null: there is none.")
    client_id: str | None = Field(None, description="Client id for programs on a terminal.")
    scopes: tuple[str, ...] = ()
    audience: str | None = Field(None, description="To be asked for as `resource`, so that the token is for us.")
