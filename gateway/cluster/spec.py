"""What a cluster is asked to be, and every name that follows from it: hosts, addresses, interfaces. Pure."""

import re
from dataclasses import dataclass
from typing import Literal

from gateway.errors import Invalid

Release = Literal["sid", "trixie"]
Role = Literal["ctl", "login", "node", "build"]

RELEASES: tuple[Release, ...] = ("sid", "trixie")
EXTRAS = {"pyslurm": "sid"}
"""What is put on the login host only where it is asked for, and for which release it can be built."""

DEFAULT_GPUS = "a100:4,a100_1g.10gb:2,shard:16"
MAX_NODES = 64
REST_PORT = 6820
SSH_PORT = 22
BUILD_PORT = 2222

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_GPU = re.compile(r"(?P<type>[A-Za-z][A-Za-z0-9_.]*):(?P<count>[1-9][0-9]?)")
_MIG = re.compile(r"_\d+g\.\d+gb$")


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """The name, where it can be a cluster's. Raises Invalid."""
    if not is_name(name):
        raise Invalid(
            f"{name!r} cannot be a cluster's name",
            hint="use a lower-case letter, then letters, digits and dashes, 31 at most",
        )
    return name


@dataclass(frozen=True)
class Person:
    """A user of the cluster, the same on every host."""

    name: str
    uid: int
    account: str
    operator: bool = False


PEOPLE = (
    Person("alice", 2001, "research"),
    Person("bob", 2002, "teaching"),
    Person("oper", 2003, "research", operator=True),
)
ACCOUNTS = ("research", "teaching")


@dataclass(frozen=True)
class Gpu:
    """`count` fake GPUs of one type on every node; the type `shard` means shares of the whole ones."""

    type: str
    count: int

    @property
    def mig(self) -> bool:
        """A slice of a card (`a100_1g.10gb`): has a capability device beside its own."""
        return _MIG.search(self.type) is not None


@dataclass(frozen=True)
class Host:
    """One host: its name, what it does, and the last number of its address."""

    name: str
    role: Role
    octet: int


@dataclass(frozen=True)
class Spec:
    """What `sluice cluster up` is asked for. Raises Invalid where it cannot be."""

    name: str
    nodes: int = 2
    release: str = "sid"
    gpus: str = DEFAULT_GPUS
    extras: str = ""
    """Names from `EXTRAS`, with commas."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 1 <= self.nodes <= MAX_NODES:
            raise Invalid(f"a cluster has 1 to {MAX_NODES} nodes, not {self.nodes}")
        if self.release not in RELEASES:
            raise Invalid(f"unknown release {self.release!r}", hint=f"one of: {', '.join(RELEASES)}")
        parse_gpus(self.gpus)
        for extra in filter(None, self.extras.split(",")):
            if extra not in EXTRAS:
                raise Invalid(f"unknown extra {extra!r}", hint=f"one of: {', '.join(EXTRAS)}")
            if self.release != EXTRAS[extra]:
                raise Invalid(f"{extra} is for release {EXTRAS[extra]}, not {self.release}")

    @property
    def hosts(self) -> tuple[Host, ...]:
        nodes = (Host(f"node{i}", "node", 10 + i) for i in range(1, self.nodes + 1))
        return (Host("ctl", "ctl", 2), *nodes, Host("login", "login", 10), Host("build", "build", 1))


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """`a100:4,a100_1g.10gb:2,shard:16`, what every node has of each; `none` for no GPUs."""
    if text in ("", "none"):
        return ()
    gpus = []
    for item in text.split(","):
        match = _GPU.fullmatch(item.strip())
        if not match:
            raise Invalid(
                f"{item!r} is not a kind of GPU", hint="write TYPE:COUNT, e.g. --gpus a100:4,a100_1g.10gb:2,shard:16"
            )
        gpus.append(Gpu(match["type"], int(match["count"])))
    types = [gpu.type for gpu in gpus]
    if len(set(types)) != len(types):
        raise Invalid(f"a type stands twice in --gpus {text}")
    whole = sum(gpu.count for gpu in gpus if gpu.type != "shard" and not gpu.mig)
    shards = next((gpu.count for gpu in gpus if gpu.type == "shard"), 0)
    if shards and (not whole or shards % whole):
        raise Invalid(
            f"{shards} shards cannot be spread evenly over {whole} whole GPUs", hint="use a multiple of the GPUs"
        )
    return tuple(gpus)


@dataclass(frozen=True)
class Net:
    """The /24 of one cluster on its bridge, and the names of its interfaces (15 characters at most)."""

    index: int
    """The third number of 10.77.K.0/24."""

    identity: str
    """Hexadecimal digits that no other cluster has: they make the bridge's hardware address."""

    def address(self, octet: int) -> str:
        return f"10.77.{self.index}.{octet}"

    @property
    def bridge(self) -> str:
        return f"sluice{self.index}"

    @property
    def bridge_mac(self) -> str:
        """By which `down` knows that the bridge is this cluster's and not a later one of the same name."""
        digits = self.identity[:10]
        return ":".join(["02", *(digits[i : i + 2] for i in range(0, 10, 2))])

    def veth(self, octet: int) -> str:
        return f"sl{self.index}-{octet}"
