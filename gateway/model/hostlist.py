"""Lists of hosts as Slurm writes them: `node[1-3,07],gpu2`. Pure."""

import re
from collections.abc import Iterator
from itertools import product

_PART = re.compile(r"(?:[^,\[]|\[[^\]]*\])+")
_RANGES = re.compile(r"\[([^\]]*)\]")


def hosts(text: str) -> frozenset[str]:
    """The names that it stands for."""
    return frozenset(name for part in _PART.findall(text) for name in _expanded(part))


def _expanded(part: str) -> Iterator[str]:
    pieces = _RANGES.split(part)  # names and ranges take turns
    choices = [_numbers(piece) if index % 2 else [piece] for index, piece in enumerate(pieces)]
    return ("".join(chosen) for chosen in product(*choices))


def _numbers(ranges: str) -> list[str]:
    found: list[str] = []
    for one in ranges.split(","):
        first, dash, last = one.partition("-")
        if dash and first.isdecimal() and last.isdecimal():
            found += [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        else:
            found.append(one)
    return found
