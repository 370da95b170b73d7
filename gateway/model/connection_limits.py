"""What one connection may ask of us, and in which time: the section `serve.connection` of the settings."""

from pydantic import BaseModel, ConfigDict, Field


class ConnectionLimits(BaseModel):
    """What one connection of a caller may bring, and how long it may take: the same on every port."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head_seconds: float = Field(
        10.0, gt=0, description="From the first byte of a request's head to its last, however steadily it drips."
    )
    head_bytes: int = Field(
        1 << 16, ge=1 << 10, le=1 << 20, description="A request's line and headers together, in bytes."
    )
    body_seconds: float = Field(60.0, gt=0, description="Longest silence while a request's body comes.")
    body_bytes_per_second: float = Field(
        512.0, ge=0, description="Least that a body must come with on the whole, once it has taken body_seconds."
    )
    idle_seconds: float = Field(
        75.0, gt=0, description="Between two requests of a connection, and before the first; longer than a proxy's."
    )
    stuck_seconds: float = Field(300.0, gt=0, description="Longest time in which a caller takes nothing of its answer.")
    handshake_seconds: float = Field(10.0, gt=0, description="Longest time for the handshake of TLS.")

    def body_deadline(self, now: float, began: float, received: int) -> float:
        """When a body is given up of which `received` bytes have come since it `began`."""
        silent = now + self.body_seconds
        if not self.body_bytes_per_second:
            return silent
        return min(silent, began + self.body_seconds + received / self.body_bytes_per_second)
