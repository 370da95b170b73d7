"""Named secrets of users and projects: what is asked and shown. No value is ever shown, printed or compared. Pure."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from gateway.model.named import Named, NamedView

LONGEST = 64 * 1024
PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"

SecretName = Annotated[str, StringConstraints(pattern=PATTERN)]


def _sound(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text:
        raise ValueError("the value is empty")
    if "\0" in text:
        raise ValueError("a NUL character cannot be passed to a program")
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST:
        raise ValueError(f"a secret has at most {LONGEST} bytes")
    return value


class SecretRequest(BaseModel):
    """A value to be kept. `repr` and logs show stars."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    value: Annotated[SecretStr, AfterValidator(_sound)] = Field(description="The value; it is never shown again.")


class SecretView(NamedView):
    """A named secret, without its value."""

    updated_at: datetime
    updated_by: str = Field(description="Who gave it its value.")


class KeptSecret(SecretView, Named):
    """A secret as it is kept: `sealed` can be opened for this `id` alone."""

    kind = "Secret"

    sealed: str = Field(repr=False)

    @property
    def about(self) -> str:
        """What the value is sealed for: in another row it does not open."""
        return f"secret:{self.id}"

    def after(self, before: Self) -> Self:
        return self.model_copy(update={"created_at": before.created_at})


def about_session(session_id: str) -> str:
    """What the values of one session are sealed for."""
    return f"session:{session_id}"
