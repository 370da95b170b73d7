"""What people and projects keep by name: secrets, volumes. What every kind of it says of itself. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["Secret", "Volume"]


class NamedView(BaseModel):
    """What has a name, as the API shows it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    project: str | None = Field(None, description="The project that it is of; unset: it is your own.")
    created_at: datetime


class Named(NamedView):
    """The same as it is kept: a user's own (`user_id`), or a project's."""

    kind: ClassVar[Kind]

    id: str
    user_id: str | None = None

    @property
    def seen(self) -> Mapping[str, str]:
        """What policies see of it besides its name and whose it is."""
        return {}

    def after(self, before: Self) -> Self:
        """As it is kept in the place of another of that name."""
        del before
        return self
