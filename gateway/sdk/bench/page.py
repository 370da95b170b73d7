"""The page of a run, and of several beside each other: tables, and charts of the same figures."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from gateway.model.bench import METRICS, NAMES, SHARES, Metric, Report, Stage
from gateway.sdk.bench import markup, words
from gateway.sdk.bench.chart import Axis, Line, chart
from gateway.sdk.bench.compare import Comparison, Row, compare, rows_of
from gateway.sdk.bench.markup import Child, element

Named = tuple[str, Stage]

_TIME = Axis("time, on a logarithmic scale", words.seconds, logarithmic=True)
_SHARE = Axis("Share of all that were not slower, in per cent", lambda value: f"{value:.0f} %", least=0, most=100)

STYLE = """
:root { --paper: #fff; --ink: #1b1f24; --dim: #57606a; --rule: #d0d7de; --good: #1a7f37; --bad: #b3261e;
  --h0: #0072b2; --h1: #d55e00; --h2: #00805a; --h3: #a8467f; --h4: #8a6d00; --h5: #3d7ea6; --h6: #6b4fbb; --h7: #555; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --dim: #9aa4af; --rule: #30363d;
  --good: #56d364; --bad: #ff8f85; --h0: #56b4e9; --h1: #ff9e4a; --h2: #3fcf9f; --h3: #e78ac3; --h4: #f0e442;
  --h5: #9ecae1; --h6: #b9a2ff; --h7: #bbb; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1360px; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; } p { margin: .25rem 0; color: var(--dim); }
.warning { color: var(--ink); border-left: 4px solid var(--bad); padding: .25rem .75rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 1.5rem; }
figure { margin: 0; } figure > svg { width: 100%; height: auto; display: block; }
text { fill: var(--dim); font: 11px system-ui, sans-serif; } .grid { stroke: var(--rule); stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.hue0 { stroke: var(--h0); } .hue1 { stroke: var(--h1); stroke-dasharray: 7 3; }
.hue2 { stroke: var(--h2); stroke-dasharray: 2 3; } .hue3 { stroke: var(--h3); stroke-dasharray: 9 3 2 3; }
.hue4 { stroke: var(--h4); stroke-dasharray: 12 4; } .hue5 { stroke: var(--h5); stroke-dasharray: 4 2; }
.hue6 { stroke: var(--h6); stroke-dasharray: 1 2; } .hue7 { stroke: var(--h7); stroke-dasharray: 6 2 1 2 1 2; }
.dot { fill: none; stroke-width: 3; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .25rem 0; padding: 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
caption { text-align: left; color: var(--dim); padding-bottom: .25rem; }
th, td { padding: .2rem .75rem .2rem 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child { text-align: left; font-weight: 600; } td:last-child, th:last-child { padding-right: 0; }
.better { color: var(--good); } .worse { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .5rem 0; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
"""


def of_run(report: Report) -> str:
    """The page of one run."""
    stages = [(stage.load.label, stage) for stage in report.stages]
    around = report.environment
    title = f"Benchmark of {around.session_name}"
    return markup.page(
        f"{title}, {report.id}",
        STYLE,
        element("h1", {}, title),
        element(
            "p",
            {},
            f"{report.began_at:%Y-%m-%d %H:%M} UTC, run {report.id}" + (f", {report.label}" * bool(report.label)),
        ),
        *(element("p", {"class": "warning"}, text) for text in warnings(report)),
        _figures([label for label, _ in stages], rows_of([stage for _, stage in stages]), "Figures of each load"),
        _errors(stages),
        _by_load([("", report)]) if len(stages) > 1 else None,
        *_charts(stages),
        element("h2", {}, "What was measured"),
        _facts(report),
    )


def of_comparison(reports: Sequence[Report]) -> str:
    """The page of several runs; changes are from the first."""
    found = compare(reports)
    parts: list[Child] = []
    for level in found.levels:
        alone = all(len(report.stages) == 1 for report in reports)
        stages = [
            (report.id, stage)
            for report in reports
            for stage in report.stages
            if alone or stage.load.label == level.label
        ]
        parts += [element("h2", {}, level.label), _figures(list(found.names), level.rows, "Changes from the first run")]
        parts += _charts(stages)
    title = f"{len(reports)} benchmark runs"
    several = any(len(report.stages) > 1 for report in reports)
    return markup.page(
        title,
        STYLE,
        element("h1", {}, title),
        element("p", {}, " · ".join(found.names)),
        _differing(found),
        _by_load([(report.id, report) for report in reports]) if several else None,
        *parts,
    )


def warnings(report: Report) -> list[str]:
    """What a reader must know before believing the figures."""
    told = ["The run was interrupted: figures are of what was measured until then."] if report.interrupted else []
    for stage in report.stages:
        figures, generator = stage.figures, stage.generator
        if generator.busy:
            told.append(
                f"{stage.load.label}: the load generator itself was held up (it had {generator.cpu:.0%} of a core, and "
                f"was {words.seconds(generator.lag_p99)} late): the figures are partly its own."
            )
        if figures.failed:
            told.append(f"{stage.load.label}: {figures.failed} of {figures.requests} requests failed.")
        if figures.tokens_by in {"pieces", "both"}:
            told.append(f"{stage.load.label}: the server did not tell its tokens each time; pieces were counted.")
    return told


def _charts(stages: Sequence[Named]) -> list[Child]:
    times = [
        _distribution(metric, stages) for metric in METRICS if any(one.figures.spread(metric) for _, one in stages)
    ]
    return [
        element("h2", {}, "How long it took"),
        element("div", {"class": "charts"}, *times),
        element("h2", {}, "While it ran"),
        element(
            "div",
            {"class": "charts"},
            _over_time("In flight", "Requests under way", stages, "in_flight"),
            _over_time("Output tokens per second", "Tokens", stages, "tokens"),
            _over_time("Answers per second", "Whole answers", stages, "answered"),
            _over_time("Failures per second", "Failed requests", stages, "failed")
            if any(stage.figures.failed for _, stage in stages)
            else None,
        ),
    ]


def _distribution(metric: Metric, stages: Sequence[Named]) -> Element:
    lines, said = [], []
    for hue, (name, stage) in enumerate(stages):
        spread = stage.figures.spread(metric)
        if spread is not None:
            points = [(value, share * 100) for value, share in zip(spread.curve, SHARES, strict=True)]
            lines.append(Line(name, points, hue))
            said.append(f"{name}: half within {words.seconds(spread.p50)}, 99 % within {words.seconds(spread.p99)}")
    return chart(NAMES[metric], "; ".join(said) + ".", lines, _TIME, _SHARE)


def _over_time(title: str, what: str, stages: Sequence[Named], name: str) -> Element:
    lines, said = [], []
    for hue, (label, stage) in enumerate(stages):
        step, values = stage.series.step, getattr(stage.series, name)
        lines.append(Line(label, [((at + 0.5) * step, value) for at, value in enumerate(values)], hue))
        said.append(f"{label}: at most {words.number(max(values, default=0.0))}")
    x = Axis("seconds since the load began", words.number, least=0)
    return chart(title, "; ".join(said) + ".", lines, x, Axis(what, words.number, least=0))


def _by_load(reports: Sequence[tuple[str, Report]]) -> Element:
    """How the figures change with the load: what a sweep is for."""
    rate: list[Line] = []
    first: list[Line] = []
    for hue, (name, report) in enumerate(reports):
        stages = sorted(report.stages, key=lambda stage: stage.load.level)
        points = [(stage.load.level, stage.figures.output_tokens_per_second) for stage in stages]
        rate.append(Line(name or "output tokens per second", points, hue))
        spreads = [(stage.load.level, stage.figures.ttft) for stage in stages]
        for number, word in enumerate(("p50", "p99")):
            values = [(level, float(getattr(spread, word))) for level, spread in spreads if spread is not None]
            first.append(Line(f"{name} {word}".strip(), values, 2 * hue + number))
    kinds = {stage.load.kind for _, report in reports for stage in report.stages}
    x = Axis("requests at once" if kinds == {"closed"} else "requests a second", words.number, least=0)
    best = max((y for line in rate for _, y in line.points), default=0.0)
    worst = max((y for line in first for _, y in line.points), default=0.0)
    charts = (
        chart(
            "Throughput by load",
            f"At most {words.number(best)} output tokens per second.",
            rate,
            x,
            Axis("Output tokens per second", words.number, least=0),
        ),
        chart(
            "Time to first token by load",
            f"At most {words.seconds(worst)}.",
            first,
            x,
            Axis("Time, on a logarithmic scale", words.seconds, logarithmic=True),
        ),
    )
    return element("div", {}, element("h2", {}, "By load"), element("div", {"class": "charts"}, *charts))


def _figures(names: list[str], rows: Sequence[Row], caption: str) -> Element:
    compared = caption.startswith("Changes")
    cells: list[list[Child]] = []
    for row in rows:
        line: list[Child] = [row.name]
        for number, (value, change) in enumerate(zip(row.values, row.changes, strict=True)):
            said = words.of_unit(value, row.unit)
            if compared and number and change is not None:
                line.append(
                    element(
                        "span", {}, f"{said} ", element("span", {"class": verdict(row, change)}, words.change(change))
                    )
                )
            else:
                line.append(said)
        cells.append(line)
    return markup.table(["", *names], cells, caption=caption)


def verdict(row: Row, change: float) -> str:
    """`better`, `worse`, or nothing where it is neither, or less than a hundredth."""
    if not row.better or abs(change) < 0.01:  # noqa: PLR2004
        return ""
    return "better" if (change < 0) == (row.better == "less") else "worse"


def _errors(stages: Sequence[Named]) -> Element | None:
    rows: list[list[Child]] = [
        [label, kind, str(count)] for label, stage in stages for kind, count in stage.figures.errors.items()
    ]
    return markup.table(["load", "error", "requests"], rows, caption="Failed requests by kind") if rows else None


def _differing(found: Comparison) -> Element | None:
    if not found.differences:
        return None
    rows: list[list[Child]] = [[name, *values] for name, values in found.differences]
    return markup.table(["", *found.names], rows, caption="What was not the same")


def _facts(report: Report) -> Element:
    pairs = [(name, value) for name, value in facts(report) if value]
    return element(
        "dl", {}, *(part for name, value in pairs for part in (element("dt", {}, name), element("dd", {}, value)))
    )


def facts(report: Report) -> list[tuple[str, str]]:
    """What was measured, and how, in words."""
    around, work = report.environment, report.workload
    lengths = [f"{count} {what}" for count, what in ((work.prompt_tokens, "in"), (work.output_tokens, "out")) if count]
    slo = ", ".join(f"{metric} within {words.seconds(target)}" for metric, target in work.slo.items())
    limits = [f"{work.requests} requests"] if work.requests else []
    limits += [f"{work.seconds:g} s"] if work.seconds else []
    return [
        ("session", f"{around.session_name} ({around.session})"),
        ("recipe", f"{around.recipe} {around.recipe_version}"),
        ("model", around.model or ""),
        ("image", f"{around.image} sha256:{around.image_sha256}" if around.image_sha256 else around.image),
        ("cluster", f"{around.cluster} {around.nodes}".strip()),
        ("replicas", around.replicas),
        ("resources", ", ".join(f"{name} {value}" for name, value in around.resources_said.items())),
        ("parameters", ", ".join(f"{name} {value}" for name, value in around.parameters.items())),
        ("gateway", f"{around.gateway} {around.gateway_version}".strip()),
        ("endpoint", f"/v1/{'completions' if work.endpoint == 'completions' else 'chat/completions'}"),
        ("prompts", f"{work.prompts}, seed {work.seed}"),
        ("tokens", ", ".join(lengths)),
        ("each load", " or ".join(limits)),
        ("good means", slo),
    ]
