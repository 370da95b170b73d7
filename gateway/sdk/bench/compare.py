"""Runs side by side: the same figure of each, and how far it is from the first run's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.model.bench import METRICS, NAMES, Figures, Metric, Report, Spread, Stage

Unit = Literal["s", "/s", "", "%"]


@dataclass(frozen=True)
class Row:
    """One figure; `changes` are shares of the first run's value (0.1: a tenth more), None where one is missing."""

    name: str
    unit: Unit
    better: Literal["less", "more", ""]
    values: tuple[float | None, ...]

    @property
    def changes(self) -> tuple[float | None, ...]:
        first = self.values[0]
        return tuple(None if value is None or not first else value / first - 1 for value in self.values)


@dataclass(frozen=True)
class Level:
    """One load, and what it was in each run."""

    label: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Comparison:
    """`differences`: what of the surroundings was not the same, and what it was in each run."""

    names: tuple[str, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    levels: tuple[Level, ...]


def compare(reports: Sequence[Report]) -> Comparison:
    """Of two runs or more. Stages of the same load belong together; where each has one stage, these do."""
    alone = all(len(report.stages) == 1 for report in reports)
    labels = list(dict.fromkeys(stage.load.label for report in reports for stage in report.stages))
    if alone:
        stages: list[list[Stage | None]] = [[report.stages[0] for report in reports]]
        labels = [" | ".join(labels)]
    else:
        stages = [[_at(report, label) for report in reports] for label in labels]
    levels = [Level(label, rows_of(found)) for label, found in zip(labels, stages, strict=True)]
    return Comparison(tuple(report.id for report in reports), _differences(reports), tuple(levels))


def rows_of(stages: "Sequence[Stage | None]") -> tuple[Row, ...]:
    """Every figure, one value a stage."""
    rows = [
        _row(stages, "Requests", "", "", lambda figures: figures.requests),
        _row(stages, "Failed", "", "less", lambda figures: figures.failed),
        _row(stages, "Requests per second", "/s", "more", lambda figures: figures.requests_per_second),
        _row(stages, "Output tokens per second", "/s", "more", lambda figures: figures.output_tokens_per_second),
        _row(stages, "Total tokens per second", "/s", "more", lambda figures: figures.total_tokens_per_second),
        _row(stages, "Good requests per second", "/s", "more", lambda figures: figures.good_per_second),
        _row(stages, "In flight, on average", "", "", lambda figures: figures.in_flight),
    ]
    rows += [
        _row(stages, f"{NAMES[metric]}, {word}", "s", "less", _of_spread(metric, word))
        for metric in METRICS
        for word in ("mean", "p50", "p90", "p95", "p99")
    ]
    return tuple(row for row in rows if any(value is not None for value in row.values))


def _row(
    stages: "Sequence[Stage | None]",
    name: str,
    unit: Unit,
    better: Literal["less", "more", ""],
    value: Callable[[Figures], float | None],
) -> Row:
    return Row(name, unit, better, tuple(None if stage is None else value(stage.figures) for stage in stages))


def _of_spread(metric: Metric, word: str) -> Callable[[Figures], float | None]:
    def value(figures: Figures) -> float | None:
        spread: Spread | None = figures.spread(metric)
        return None if spread is None else float(getattr(spread, word))

    return value


def _at(report: Report, label: str) -> Stage | None:
    return next((stage for stage in report.stages if stage.load.label == label), None)


def _differences(reports: Sequence[Report]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    told = [_surroundings(report) for report in reports]
    names = list(dict.fromkeys(name for one in told for name in one))
    rows = [(name, tuple(one.get(name, "") for one in told)) for name in names]
    return tuple((name, values) for name, values in rows if len(set(values)) > 1)


def _surroundings(report: Report) -> dict[str, str]:
    """What may explain a difference, in words."""
    around, work = report.environment, report.workload
    told = {
        "label": report.label,
        "session": around.session_name,
        "cluster": around.cluster,
        "nodes": around.nodes,
        "recipe": f"{around.recipe} {around.recipe_version}",
        "image": f"{around.image} sha256:{around.image_sha256[:12]}",
        "model": around.model or "",
        "replicas": around.replicas,
        "gateway version": around.gateway_version,
        "loads": ", ".join(stage.load.label for stage in report.stages),
        "endpoint": work.endpoint,
        "prompts": work.prompts,
        "prompt tokens": str(work.prompt_tokens or ""),
        "output tokens": str(work.output_tokens or ""),
        "seed": str(work.seed),
        "requests of each load": str(work.requests or ""),
        "seconds of each load": f"{work.seconds:g}" if work.seconds else "",
    }
    told |= {f"parameter {name}": str(value) for name, value in around.parameters.items()}
    return told | {f"resource {name}": value for name, value in around.resources_said.items()}
