"""What `up` and `down` share: the state directory, the settings that `up` writes, and what it has brought up."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.errors import Conflict, SettingsInvalid
from gateway.settings import Settings, find, generated, load

DEMO_RECIPE = "llama-cpp"
DEMO_IMAGE = "llama-cpp"
DEMO_SESSION = "demo"


@dataclass(frozen=True)
class Brought:
    """What `up` has brought up, written before it does: `down` finds it by this, whatever happened."""

    cluster: str | None = None
    """The local cluster that is used."""

    made: bool = False
    """`up` made it, so `down` ends it."""

    created: str = ""
    """When it came up: another time is another Slurm, that knows nothing of the jobs of before."""


class Place:
    """The state directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def default(cls) -> "Place":
        return cls(generated(os.environ).parent)

    @property
    def toml(self) -> Path:
        return self.folder / "sluice.toml"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One `up` or `down` at a time; the kernel takes the lock back when we are killed."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    f"another `sluice up` or `sluice down` is at work in {self.folder}", hint="Wait until it has ended."
                ) from None
            yield
        finally:
            os.close(handle)

    def brought(self) -> Brought:
        try:
            return Brought(**json.loads((self.folder / "up.json").read_text()))
        except (OSError, ValueError, TypeError):
            return Brought()

    def remember(self, brought: Brought) -> None:
        (self.folder / "up.json").write_text(json.dumps(asdict(brought)))

    def forget(self) -> None:
        """What `up` wrote about itself; tokens and keys stay."""
        for name in ("up.json", "sluice.toml"):
            (self.folder / name).unlink(missing_ok=True)

    def forget_sessions(self) -> None:
        """The database, when the Slurm that its sessions ran on is gone."""
        for name in ("sluice.db", "sluice.db-wal", "sluice.db-shm"):
            (self.folder / name).unlink(missing_ok=True)

    def write_settings(self, cluster_toml: str, cluster: str | None, port: int) -> None:
        """The settings that the gateway and every later command find."""
        head = [
            "# Written by `sluice up`, removed by `sluice down`.",
            f"state_dir = {json.dumps(str(self.folder))}",
            *([f"default_cluster = {json.dumps(cluster)}"] if cluster else []),
            "",
            "[serve]",
            f"all_port = {port}",
            "",
            cluster_toml,
        ]
        self.toml.write_text("\n".join(head))


def own_settings(place: Place) -> Settings | None:
    """The settings of a person or a site, which `up` uses as they are; None if there are none but its own."""
    source = find(os.environ)
    if source is None or source.absolute() == place.toml.absolute():
        return None
    settings = load(source)
    if not settings.clusters:
        raise SettingsInvalid(
            f"{source.absolute()} names no cluster, so `sluice up` has none to use",
            hint="Name one there (`sluice cluster env` prints a local one's part), or move the file away.",
        )
    return settings


def digest(settings: Settings) -> str:
    """Tells settings apart: a gateway that runs with others must be started anew."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()
