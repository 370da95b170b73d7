"""Volumes: named directories of a person or a project on a cluster, that sessions mount. Pure.

Each is of a class, which the site's settings give a root; nothing outside that root is ever mounted as a volume.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from gateway.model.named import Named, NamedView

PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
TARGETS = "/volumes"
LONGEST_PATH = 1024
RESERVED_TARGETS = ("/session", "/run/sluice", "/inputs", "/proc", "/sys", "/dev")

VolumeName = Annotated[str, StringConstraints(pattern=PATTERN)]
ClassName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


def check_target(value: str) -> str:
    """An absolute path in the container that Sluice does not use itself."""
    parts = value.split("/")
    if not value.startswith("/") or ".." in parts or "\n" in value or not value.strip("/"):
        raise ValueError(f"{value!r} is not an absolute path of a folder in the container")
    if value.rstrip("/").startswith(tuple(f"{taken}/" for taken in RESERVED_TARGETS)) or (
        value.rstrip("/") in RESERVED_TARGETS
    ):
        raise ValueError(f"{value!r} is used by Sluice or the system; choose another place")
    return value


def check_below(value: str) -> str:
    """A path below a root: relative, and never on its way out of it."""
    parts = value.split("/")
    if any(part in {"", ".", ".."} for part in parts) or value.startswith("~") or not value.isprintable():
        raise ValueError(f"{value!r} is not a path below the root of a class: relative, without '..', '.' and '//'")
    return value


BelowRoot = Annotated[str, StringConstraints(max_length=LONGEST_PATH), AfterValidator(check_below)]


class VolumeRequest(BaseModel):
    """A volume to be named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    volume_class: ClassName = Field("home", description="Its class, of those in the cluster's settings.")
    cluster: str | None = Field(None, description="Cluster that it lies on; unset: the default one.")
    path: BelowRoot | None = Field(None, description="Path below the root of its class; unset: its name.")


class VolumeView(NamedView):
    """A volume: whose it is and where it lies."""

    cluster: str
    volume_class: str = Field(description="Its class: the root that it lies below.")
    path: str = Field(description="Path below the root of its class.")
    created_by: str = Field(description="Who named it.")


class KeptVolume(VolumeView, Named):
    """A volume as it is kept."""

    kind = "Volume"

    @property
    def seen(self) -> Mapping[str, str]:
        return self.model_dump(include={"cluster", "volume_class", "path"})


class VolumeUse(BaseModel):
    """A volume in a session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: VolumeName = Field(description="Its name: your own volume, else the project's.")
    target: Annotated[str, AfterValidator(check_target)] | None = Field(
        None, description="Path in the container; unset: /volumes/NAME."
    )
    writable: bool = Field(default=True, description="Whether the program may write there.")

    @property
    def place(self) -> str:
        return self.target or f"{TARGETS}/{self.name}"


class Place(NamedTuple):
    """Where a volume lies: the root of its class, and itself below. A relative path starts at the user's home."""

    root: str
    source: str


def place_of(root: str, path: str, *, user: str, project: str | None) -> Place:
    """A root as settings say it, for who runs the job. `user` and `project` are plain names."""
    whole = root.replace("{user}", user).replace("{project}", project or "").rstrip("/")
    whole = "." if whole == "~" else whole.removeprefix("~/")
    return Place(whole, check_below(path) if whole == "." else f"{whole}/{check_below(path)}")
