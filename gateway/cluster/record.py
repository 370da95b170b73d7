"""The record of a cluster, written before anything of it is made: by it `down` finds all, whatever happened."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from gateway.cluster.files import clusters_dir, write_whole
from gateway.cluster.processes import program, started
from gateway.cluster.spec import Net, Spec, check_name, is_name

FILE = "cluster.json"


@dataclass(frozen=True)
class Running:
    """A host's processes: `outer` holds its namespaces, `init` is pid 1 in them, `born` when that started."""

    outer: int
    init: int
    born: int

    @property
    def alive(self) -> bool:
        return self.born != 0 and started(self.init) == self.born

    @property
    def entered(self) -> bool:
        """It is a host now: before that, a command sent into it would run on this machine's own files."""
        return self.alive and program(self.init) == "tini"


@dataclass(frozen=True)
class Record:
    """A cluster as it was asked for, where its parts are, and whether it ever came up."""

    spec: Spec
    net: Net
    rootfs: str
    up: bool = False
    hosts: dict[str, Running] = field(default_factory=dict)
    images: str = ""
    """A directory of the machine that is /home/images in the cluster; "" for one of the cluster's own."""

    mirror: str = ""
    """The Debian mirror that was asked for; "" for the machine's own."""

    created: str = ""
    """When it came up, ISO 8601 in UTC."""

    def save(self, state: Path) -> None:
        write_whole(state / FILE, json.dumps(asdict(self), indent=1) + "\n", mode=0o600)

    def with_host(self, name: str, running: Running) -> "Record":
        return replace(self, hosts=self.hosts | {name: running})

    @property
    def alive(self) -> bool:
        """Every host of it is running."""
        return self.up and all((run := self.hosts.get(host.name)) and run.alive for host in self.spec.hosts)


def load(state: Path) -> Record | None:
    """The record in this state directory, or None: never written, or by something else."""
    try:
        data = json.loads((state / FILE).read_text(encoding="utf-8"))
        return Record(
            spec=Spec(**data["spec"]),
            net=Net(**data["net"]),
            rootfs=data["rootfs"],
            up=data["up"],
            hosts={name: Running(**run) for name, run in data["hosts"].items()},
            images=data["images"],
            mirror=data.get("mirror", ""),
            created=data["created"],
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def state_of(name: str) -> Path:
    """Its state directory. Raises Invalid for what cannot be a name, before it becomes a path."""
    return clusters_dir() / check_name(name)


def all_names() -> list[str]:
    """Every cluster that has a state directory, whole or half made."""
    try:
        return sorted(path.name for path in clusters_dir().iterdir() if is_name(path.name))
    except (FileNotFoundError, NotADirectoryError):  # `down` of the last one takes the folder along
        return []
