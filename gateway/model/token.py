"""Sluice's own tokens: named, scoped, expiring, shown once and kept as a digest. Pure."""

import hashlib
import re
from collections.abc import Collection
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from gateway.model.principal import EVERYTHING, Scope

PREFIX = "sluice_"
"""Lets scanners of repositories recognise a token that leaked."""

LONGEST_DAYS = 366
_TOKEN = re.compile(r"sluice_([0-9A-HJKMNP-TV-Z]{26})_([A-Za-z0-9_-]{43})")


class Token(BaseModel):
    """A token as it is kept; the digest stays in the store."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: str
    user_id: str
    scopes: frozenset[Scope]
    project: str | None = None
    session: str | None = None
    created_at: datetime
    created_by: str
    expires_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None

    def valid(self, now: datetime) -> bool:
        return self.revoked_at is None and now < self.expires_at


class TokenView(BaseModel):
    """A token as the API shows it; never its text."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: str
    user: str
    scopes: tuple[Scope, ...]
    project: str | None = None
    session: str | None = None
    created_at: datetime
    created_by: str
    expires_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


class NewTokenView(TokenView):
    """A token that was just made."""

    token: str = Field(description="The token itself. It is shown this once and kept nowhere.")


class TokenRequest(BaseModel):
    """A token to be made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="What it is for.", min_length=1, max_length=63, examples=["ci"])
    scopes: frozenset[Scope] | None = Field(None, description="What it may do; unset: all but `admin`.")
    days: float = Field(30, gt=0, le=LONGEST_DAYS, description="Days until it expires.")
    project: str | None = Field(None, description="Held to this project.")
    session: str | None = Field(None, description="Held to this one session, by its id.")
    user: str | None = Field(None, description="A service account that it is for; unset: you.")


USUAL = EVERYTHING - {Scope.ADMIN}


def spell(token_id: str, secret: str) -> str:
    """The text that its holder gets."""
    return f"{PREFIX}{token_id}_{secret}"


def parse(text: str) -> tuple[str, str] | None:
    """The id and the secret of what looks like a token of ours."""
    found = _TOKEN.fullmatch(text)
    return (found[1], found[2]) if found else None


def digest(secret: str) -> str:
    """What is kept of a secret. It is 256 random bits, so one plain hash is as hard to turn round as it gets."""
    return hashlib.sha256(secret.encode()).hexdigest()


def narrowed(asked: frozenset[Scope] | None, own: Collection[Scope]) -> frozenset[Scope]:
    """What a new token may do: what is asked for, and nothing that its maker may not."""
    return frozenset(asked if asked is not None else USUAL) & frozenset(own)
