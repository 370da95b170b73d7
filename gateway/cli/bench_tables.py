"""Figures of benchmarks on the terminal: one run, all runs, several beside each other."""

from collections.abc import Sequence
from typing import Any

import click

from gateway.cli import output
from gateway.model.bench import METRICS, NAMES, Report, Stage
from gateway.sdk.bench import page, words
from gateway.sdk.bench.compare import Comparison


def show(report: Report) -> None:
    """All about one run."""
    output.fields([("run", f"{report.id} {report.label}".strip()), *page.facts(report)])
    for stage in report.stages:
        _stage(stage)
    if len(report.stages) > 1:
        _sweep(report.stages)
    click.echo()
    for text in page.warnings(report):
        output.note(f"{output.styled('Note:', err=True, bold=True)} {text}")


def _stage(stage: Stage) -> None:
    figures = stage.figures
    click.echo()
    failed = f", {figures.failed} failed" if figures.failed else ""
    click.echo(
        output.styled(f"{stage.load.label}: {figures.requests} requests{failed} in {figures.seconds:.1f} s", bold=True)
    )
    told = [
        ("requests per second", words.number(figures.requests_per_second)),
        ("output tokens per second", words.number(figures.output_tokens_per_second)),
        ("total tokens per second", words.number(figures.total_tokens_per_second)),
        (
            "tokens in, out",
            f"{figures.prompt_tokens}, {figures.output_tokens} (counted by {_COUNTED[figures.tokens_by]})",
        ),
        ("in flight", f"{words.number(figures.in_flight)} on average, {figures.most_in_flight} at most"),
    ]
    if figures.good is not None:
        told.append(("good", f"{figures.good} requests, {words.number(figures.good_per_second)} per second"))
    told += [(f"failed: {kind}", str(count)) for kind, count in figures.errors.items()]
    output.fields(told)
    click.echo()
    rows = []
    for metric in METRICS:
        spread = figures.spread(metric)
        if spread is not None:
            times = (spread.mean, spread.p50, spread.p90, spread.p95, spread.p99, spread.greatest)
            rows.append((NAMES[metric], *map(words.seconds, times)))
    output.table(("time", "mean", "p50", "p90", "p95", "p99", "most"), rows)


_COUNTED = {"usage": "the server", "pieces": "pieces", "both": "the server, else by pieces", "none": "nobody"}


def _sweep(stages: Sequence[Stage]) -> None:
    click.echo()
    rows = []
    for stage in stages:
        figures = stage.figures
        ttft, itl = figures.ttft, figures.itl
        rows.append(
            (
                stage.load.label,
                words.number(figures.requests_per_second),
                words.number(figures.output_tokens_per_second),
                *((words.seconds(ttft.p50), words.seconds(ttft.p99)) if ttft else ("", "")),
                *((words.seconds(itl.p50), words.seconds(itl.p99)) if itl else ("", "")),
                figures.failed,
            )
        )
    output.table(("load", "req/s", "tokens/s", "ttft p50", "ttft p99", "itl p50", "itl p99", "failed"), rows)


def overview(reports: Sequence[Report]) -> None:
    """A line a run."""
    rows = []
    for report in reports:
        best = max(report.stages, key=lambda stage: stage.figures.output_tokens_per_second, default=None)
        rows.append(
            (
                report.id,
                report.environment.model or "",
                ", ".join(stage.load.label for stage in report.stages),
                words.number(best.figures.output_tokens_per_second) if best else "",
                words.seconds(best.figures.ttft.p50) if best and best.figures.ttft else "",
                sum(stage.figures.failed for stage in report.stages),
                report.label,
            )
        )
    columns = ("run", "model", "loads", "tokens/s", "ttft p50", "failed", "label")
    output.table(columns, rows, empty="There are no runs yet: sluice bench SESSION")


def compared(found: Comparison) -> None:
    """A column a run; the change stands beside each value but the first."""
    output.table(("not the same", *found.names), [(name, *values) for name, values in found.differences])
    for level in found.levels:
        click.echo()
        click.echo(output.styled(level.label, bold=True))
        rows = []
        for row in level.rows:
            cells = [words.of_unit(value, row.unit) for value in row.values]
            for number, change in enumerate(row.changes):
                if number and change is not None:
                    colour = {"better": "green", "worse": "red"}.get(page.verdict(row, change))
                    cells[number] += f"  {output.styled(words.change(change), fg=colour)}"
            rows.append((row.name, *cells))
        output.table(("", *found.names), rows)


def as_values(found: Comparison) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "runs": list(found.names),
        "differences": {name: list(values) for name, values in found.differences},
        "loads": [
            {
                "load": level.label,
                "figures": [
                    {"name": row.name, "unit": row.unit, "values": list(row.values), "changes": list(row.changes)}
                    for row in level.rows
                ],
            }
            for level in found.levels
        ],
    }
