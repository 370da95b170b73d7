"""Who is calling."""

from pydantic import BaseModel, ConfigDict


class Principal(BaseModel):
    """An authenticated caller. `admin` sees and may do everything; others only what is theirs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    admin: bool = False
    scopes: frozenset[str] = frozenset()
