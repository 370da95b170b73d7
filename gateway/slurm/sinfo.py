"""What a cluster has, by `sinfo` with chosen fields: a pair as in commands.py.

Not `scontrol --json`: that needs Slurm's JSON plugin, is many times as large, and before Slurm 26.05 does not say
which partition is the default.
"""

from collections.abc import Iterable
from typing import Final

from gateway.model.inventory import Inventory, Node, Partition
from gateway.slurm import gres, rest_parse, times
from gateway.slurm.commands import Command, Unreadable, command, rows, text

_PARTITION_FIELDS: Final = ("Partition", "Available", "Time", "DefaultTime", "NodeList", "Nodes", "CPUsState")
_NODE_FIELDS: Final = (
    "NodeList",
    "PartitionName",
    "NodeAddr",
    "StateComplete",
    "CPUsState",
    "Memory",
    "AllocMem",
    "Gres",
    "GresUsed",
    "Features_Act",
    "Reason",
)
_NOTHING: Final = frozenset({"none", "n/a"})


def partitions(mark: str) -> Command:
    """Every partition; the default one has a star behind its name."""
    return command("sinfo", "--all", "--noheader", _form(_PARTITION_FIELDS, mark))


def nodes(mark: str) -> Command:
    """Every node, once for each of its partitions."""
    return command("sinfo", "--Node", "--all", "--noheader", "--noconvert", _form(_NODE_FIELDS, mark))


def _form(fields: Iterable[str], mark: str) -> str:
    return "--Format=" + ",".join(f"{field}:{mark}" for field in fields)


def parse_inventory(partitions: str, nodes: str, mark: str) -> Inventory:
    """Both printed with the same mark. Unreadable."""
    return Inventory(partitions=tuple(_partitions(partitions, mark)), nodes=tuple(_nodes(nodes, mark)))


def _partitions(stdout: str, mark: str) -> Iterable[Partition]:
    found: dict[str, Partition] = {}
    for name, available, limit, default, names, count, cpus in rows(stdout, mark, len(_PARTITION_FIELDS)):
        plain = name.removesuffix("*")
        part = Partition(
            name=plain,
            up=available == "up",
            default=plain != name,
            max_time=times.minutes(limit),
            default_time=times.minutes(default),
            nodes=_text(names),
            total_nodes=_number(count),
            total_cpus=_cpus(cpus)[1],
        )
        if before := found.get(plain):  # sinfo tells nodes that differ in one of these in rows of their own
            part = part.model_copy(
                update={
                    "nodes": ",".join(filter(None, (before.nodes, part.nodes))),
                    "total_nodes": before.total_nodes + part.total_nodes,
                    "total_cpus": before.total_cpus + part.total_cpus,
                }
            )
        found[plain] = part
    return found.values()


def _nodes(stdout: str, mark: str) -> Iterable[Node]:
    found: dict[str, Node] = {}
    for row in rows(stdout, mark, len(_NODE_FIELDS)):
        name, partition, address, state, cpus, memory, memory_used, has, used, features, reason = row
        if before := found.get(name):
            found[name] = before.model_copy(update={"partitions": (*before.partitions, partition)})
            continue
        words = tuple(word for word in state.rstrip("*~#!%$@^-").upper().split("+") if word)
        allocated, total = _cpus(cpus)
        found[name] = Node(
            name=name,
            address=_text(address),
            states=words,
            available=rest_parse.node_available(words),
            reason=_text(reason),
            partitions=(partition,),
            cpus=total,
            cpus_used=allocated,
            memory=_number(memory),
            memory_used=_number(memory_used),
            gpus=gres.gpus(_text(has), _text(used)),
            features=tuple(word for word in _text(features).split(",") if word),
        )
    return found.values()


def _cpus(said: str) -> tuple[int, int]:
    """Allocated and all, of `2/14/0/16`: allocated, idle, other, total."""
    parts = said.split("/")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):  # noqa: PLR2004
        raise Unreadable(f"sinfo printed {said[:80]!r} for CPUs")
    return int(parts[0]), int(parts[3])


def _number(said: str) -> int:
    return times.number(said) or 0


def _text(value: str) -> str:
    return "" if value in _NOTHING else text(value)
