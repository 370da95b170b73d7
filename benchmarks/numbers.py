"""The table of the proxies: one line for each way to the same server, what it adds to a direct connection."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median

from benchmarks.hammer import Hammered
from benchmarks.processes import Cost
from benchmarks.report import Row, percentile
from benchmarks.streams import Streams

DIRECT = "direct"
SHARES = (0.5, 0.99)


@dataclass
class Figures:
    """What was measured on one way: by connections, and by the shape of the streams; of each turn."""

    requests: dict[int, list[tuple[Hammered, Cost]]] = field(default_factory=dict)
    streams: dict[tuple[int, int], list[tuple[Streams, Cost]]] = field(default_factory=dict)


def rows(figures: Mapping[str, Figures]) -> Iterator[Row]:
    """Everything, each figure beside the direct connection's: the medians of the turns."""
    direct = figures[DIRECT]
    for way, found in figures.items():
        if way != DIRECT:
            yield from _requests(way, found, direct)
            yield from _streams(way, found, direct)


def _requests(way: str, found: Figures, direct: Figures) -> Iterator[Row]:
    for connections, turns in found.requests.items():
        mine, raw = [one for one, _ in turns], [one for one, _ in direct.requests[connections]]
        sent, spent = sum(one.sent for one in mine), sum(cost.cpu for _, cost in turns)
        cpu = f", CPU {spent * 1e6 / sent:.0f} us each" if sent and spent else ""
        note = f"{sum(one.errors for one in mine)} of {sent} failed{cpu}"
        yield Row(f"{way}: requests at {connections}", "1/s", _rate(mine), _rate(raw), note=note)
        for share in SHARES:
            what = f"{way}: answer p{share * 100:.0f} at {connections}"
            yield from _added(what, [one.seconds for one in mine], [one.seconds for one in raw], share)


def _streams(way: str, found: Figures, direct: Figures) -> Iterator[Row]:
    for (number, rate), turns in found.streams.items():
        mine, raw = [one for one, _ in turns], [one for one, _ in direct.streams[number, rate]]
        what = f"{way}: {number} streams x {rate}/s"
        cut = sum(one.cut for one in mine)
        note = f"{sum(one.errors for one in mine)} of {sum(one.streams for one in mine)} failed"
        note += f", {cut} not done in time" if cut else ""
        for name, of in (("first event", _first), ("event", _transit)):
            for share in SHARES:
                yield from _added(f"{what}, {name} p{share * 100:.0f}", [*map(of, mine)], [*map(of, raw)], share, note)
        costs = [spent for _, spent in turns]
        if peak := max(spent.peak for spent in costs):
            cpu = sum(spent.cpu for spent in costs) * 1e6 / max(sum(one.events for one in mine), 1)
            before = costs[0].before
            grown = f"{before:.0f} MB before, {(peak - before) * 1024 / number:.0f} KB more a stream"
            yield Row(f"{what}, memory", "MB", peak, note=f"CPU {cpu:.0f} us an event; {grown}")


def _first(mine: Streams) -> list[float]:
    return mine.first


def _transit(mine: Streams) -> list[float]:
    return mine.transit


def _rate(turns: list[Hammered]) -> float:
    return median(one.rate for one in turns)


def _share(turns: list[list[float]], share: float) -> float | None:
    """Milliseconds; None if nothing came."""
    found = [percentile(values, share) * 1000 for values in turns if values]
    return median(found) if found else None


def _added(what: str, mine: list[list[float]], raw: list[list[float]], share: float, note: str = "") -> Iterator[Row]:
    ours, theirs = _share(mine, share), _share(raw, share)
    if ours is not None and theirs is not None:
        yield Row(what, "ms", ours, theirs, note=f"+{ours - theirs:.2f} ms{', ' if note else ''}{note}")


def table(figures: Mapping[str, Figures], missing: Mapping[str, str]) -> list[str]:
    """It in Markdown, as it stands in docs/reference/benchmarks.md."""
    direct = figures[DIRECT]
    shapes, counts = list(direct.streams), list(direct.requests)
    columns = [
        "way",
        *(f"{n:,} x {r}/s: first event" for n, r in shapes),
        *(f"{n:,} x {r}/s: event" for n, r in shapes),
    ]
    columns += [*(f"req/s at {n:,}" for n in counts), "failed", "CPU µs/event", "CPU µs/request", "memory MB"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for way, found in figures.items():
        cells = [way]
        for of in (_first, _transit):
            cells += [_both(found.streams[shape], direct.streams[shape], way, of) for shape in shapes]
        cells += [f"{_rate([one for one, _ in found.requests[n]]):,.0f}" for n in counts]
        cells += _spent(found, way)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| {way} | {why} |{' |' * (len(columns) - 2)}" for way, why in missing.items()]
    return lines


def _both(
    mine: list[tuple[Streams, Cost]],
    raw: list[tuple[Streams, Cost]],
    way: str,
    of: Callable[[Streams], list[float]],
) -> str:
    """p50 / p99 of what was added, in ms; of the direct connection what it is."""
    cells = []
    for share in SHARES:
        ours, theirs = (_share([of(one) for one, _ in turns], share) for turns in (mine, raw))
        if ours is None or theirs is None:
            return "none came"
        cells.append(f"{ours - (0.0 if way == DIRECT else theirs):,.2f}")
    return " / ".join(cells)


def _spent(found: Figures, way: str) -> list[str]:
    streams = [turn for turns in found.streams.values() for turn in turns]
    hammered = [turn for turns in found.requests.values() for turn in turns]
    failed = sum(mine.errors for mine, _ in streams) + sum(mine.errors for mine, _ in hammered)
    cut = sum(mine.cut for mine, _ in streams)
    sent = sum(mine.streams for mine, _ in streams) + sum(mine.sent for mine, _ in hammered)
    told = [f"{failed:,} of {sent:,}{f' ({cut:,} cut off)' if cut else ''}"]
    if way == DIRECT:
        return [*told, "", "", ""]
    event = sum(spent.cpu for _, spent in streams) * 1e6 / max(sum(mine.events for mine, _ in streams), 1)
    request = sum(spent.cpu for _, spent in hammered) * 1e6 / max(sum(mine.sent for mine, _ in hammered), 1)
    return [*told, f"{event:.0f}", f"{request:.0f}", f"{max(spent.peak for _, spent in streams):.0f}"]
