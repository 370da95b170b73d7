"""Rows of figures: a table for people, JSON for comparing runs."""

import json
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure of ours beside the raw thing's. `ratio` is ours / raw; `spread` is of our runs (max - min)."""

    what: str
    unit: str
    ours: float
    raw: float | None = None
    spread: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.raw if self.raw else None


def of_runs(what: str, unit: str, ours: Sequence[float], raw: Sequence[float] = (), note: str = "") -> Row:
    """Medians of several runs."""
    middle = statistics.median(raw) if raw else None
    return Row(what, unit, statistics.median(ours), middle, max(ours) - min(ours), note)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of all lie; `values` need not be sorted."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def show(rows: Sequence[Row]) -> None:
    table = Table(title="Sluice beside the raw thing, same run", title_justify="left")
    for heading in ("what", "ours", "raw", "ours / raw", "spread", "unit", "note"):
        table.add_column(heading, justify="left" if heading in {"what", "unit", "note"} else "right")
    for row in rows:
        numbers = (_short(value) for value in (row.ours, row.raw, row.ratio, row.spread))
        table.add_row(row.what, *numbers, row.unit, row.note)
    Console(width=140).print(table)


def save(rows: Sequence[Row], folder: Path) -> Path:
    """Write the rows as JSON into `folder`, named by the time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("%Y%m%d-%H%M%S.json")
    machine = {"python": platform.python_version(), "kernel": platform.release()}
    path.write_text(json.dumps({"machine": machine, "rows": [asdict(r) | {"ratio": r.ratio} for r in rows]}, indent=1))
    return path


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
