"""Generic resources as Slurm writes them: `gpu:a100:4(S:0-1)`, `gpu:a100:2(IDX:0-1),shard:0`, `gres/gpu:a100=4`."""

import re
from collections.abc import Iterable
from typing import Final

from gateway.model.inventory import Gpus

COUNTED: Final = frozenset({"gpu", "shard", "mps"})
_PAREN: Final = re.compile(r"\([^)]*\)")
_UNITS: Final = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_ITEM: Final = re.compile(r"(?P<name>[^:=]+)(?::(?P<type>[^:=]+?))?[:=](?P<count>\d+)(?P<unit>[KMG]?)")

Counts = dict[tuple[str, str], int]


def counts(text: str) -> Counts:
    """Counts by (name, type); an untyped one has type "". Sockets, indices and other resources are left out."""
    found: Counts = {}
    for part in _PAREN.sub("", text or "").split(","):
        item = part.strip().removeprefix("gres/").removeprefix("gres:")
        if not item or item.startswith("("):
            continue
        match = _ITEM.fullmatch(item)
        if match is None:
            name, kind, count = item, "", 1  # `gpu` alone is one
        else:
            name, kind = match["name"], match["type"] or ""
            count = int(match["count"]) * _UNITS[match["unit"]]
        if name in COUNTED:
            found[name, kind] = found.get((name, kind), 0) + count
    return found


def gpus(total: str, used: str) -> tuple[Gpus, ...]:
    """Totals beside what is in use; use that names no type is counted where there is only one type."""
    totals, in_use = counts(total), counts(used)
    typed = list(totals)
    result = []
    for name, kind in typed:
        busy = in_use.get((name, kind))
        if busy is None:
            only = sum(1 for other, _ in typed if other == name) == 1
            busy = sum(n for (other, _), n in in_use.items() if other == name) if only else 0
        result.append(Gpus(name=name, type=kind, total=totals[name, kind], used=min(busy, totals[name, kind])))
    return tuple(result)


def tres(gres: str) -> str:
    """`gpu:a100:2,shard:1` as REST wants it in `tres_per_node`: `gres/gpu:a100:2,gres/shard:1`."""
    return ",".join(_with_prefix(part.strip() for part in gres.split(",")))


def _with_prefix(parts: Iterable[str]) -> Iterable[str]:
    for part in parts:
        if part:
            yield part if part.startswith("gres/") else f"gres/{part}"
