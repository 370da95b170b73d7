"""What a cluster has: partitions, nodes, GPUs by type."""

from pydantic import BaseModel, ConfigDict


class Gpus(BaseModel):
    """GPUs of one GRES type: `name` is `gpu` or `shard`; counts of the whole node, partition or cluster."""

    model_config = ConfigDict(frozen=True)

    name: str
    type: str
    total: int
    used: int

    @property
    def free(self) -> int:
        return max(0, self.total - self.used)


class Node(BaseModel):
    """One node; memory in MiB. `available`: it would start a job now (up, not drained)."""

    model_config = ConfigDict(frozen=True)

    name: str
    address: str = ""
    states: tuple[str, ...]
    available: bool
    reason: str = ""
    partitions: tuple[str, ...] = ()
    cpus: int
    cpus_used: int
    memory: int
    memory_used: int
    gpus: tuple[Gpus, ...] = ()
    features: tuple[str, ...] = ()


class Partition(BaseModel):
    """One partition; times in minutes, None for unlimited."""

    model_config = ConfigDict(frozen=True)

    name: str
    up: bool
    default: bool = False
    max_time: int | None = None
    default_time: int | None = None
    nodes: str = ""
    total_nodes: int = 0
    total_cpus: int = 0


class Inventory(BaseModel):
    """A cluster at one moment."""

    model_config = ConfigDict(frozen=True)

    partitions: tuple[Partition, ...]
    nodes: tuple[Node, ...]

    def gpus(self) -> tuple[Gpus, ...]:
        """Totals by type; a node that would start nothing now counts as fully used."""
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for node in self.nodes:
            for gpu in node.gpus:
                total, used = sums.get((gpu.name, gpu.type), (0, 0))
                sums[gpu.name, gpu.type] = (
                    total + gpu.total,
                    used + (gpu.used if node.available else gpu.total),
                )
        return tuple(Gpus(name=n, type=t, total=total, used=used) for (n, t), (total, used) in sorted(sums.items()))
