"""The table of the proxies: one line for each way to the same server, what it adds to a direct connection."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.hammer import Hammered
from benchmarks.processes import Cost
from benchmarks.report import Row, percentile
from benchmarks.streams import Streams

DIRECT = "direct"
SHARES = (0.5, 0.99)


@dataclass
class Figures:
    """What was measured on one way: by connections, and by the shape of the streams."""

    requests: dict[int, tuple[Hammered, Cost]] = field(default_factory=dict)
    streams: dict[tuple[int, int], tuple[Streams, Cost]] = field(default_factory=dict)


def rows(figures: Mapping[str, Figures]) -> Iterator[Row]:
    """Everything, each figure beside the direct connection's."""
    direct = figures[DIRECT]
    for way, found in figures.items():
        if way != DIRECT:
            yield from _requests(way, found, direct)
            yield from _streams(way, found, direct)


def _requests(way: str, found: Figures, direct: Figures) -> Iterator[Row]:
    for connections, (mine, spent) in found.requests.items():
        raw = direct.requests[connections][0]
        cpu = f", CPU {spent.cpu * 1e6 / mine.sent:.0f} us each" if mine.sent and spent.cpu else ""
        note = f"{mine.errors} of {mine.sent} failed{cpu}"
        yield Row(f"{way}: requests at {connections}", "1/s", mine.rate, raw.rate, note=note)
        for share in SHARES:
            yield from _added(f"{way}: answer p{share * 100:.0f} at {connections}", mine.seconds, raw.seconds, share)


def _streams(way: str, found: Figures, direct: Figures) -> Iterator[Row]:
    for (number, rate), (mine, spent) in found.streams.items():
        raw, what = direct.streams[number, rate][0], f"{way}: {number} streams x {rate}/s"
        cut = f", {mine.cut} not done in time" if mine.cut else ""
        note = f"{mine.errors} of {mine.streams} failed{cut}"
        for name, ours, theirs in (("first event", mine.first, raw.first), ("event", mine.transit, raw.transit)):
            for share in SHARES:
                yield from _added(f"{what}, {name} p{share * 100:.0f}", ours, theirs, share, note)
        if spent.peak:
            cpu = f"CPU {spent.cpu * 1e6 / max(mine.events, 1):.0f} us an event"
            grown = f"{(spent.peak - spent.before) * 1024 / number:.0f} KB more a stream"
            yield Row(f"{what}, memory", "MB", spent.peak, note=f"{cpu}; {spent.before:.0f} MB before, {grown}")


def _added(what: str, mine: Sequence[float], raw: Sequence[float], share: float, note: str = "") -> Iterator[Row]:
    if mine and raw:
        ours, theirs = (percentile(values, share) * 1000 for values in (mine, raw))
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
        for first in (True, False):
            cells += [_both(found.streams[shape][0], direct.streams[shape][0], way, first=first) for shape in shapes]
        cells += [f"{found.requests[n][0].rate:,.0f}" for n in counts]
        cells += _spent(found, way)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| {way} | {why} |{' |' * (len(columns) - 2)}" for way, why in missing.items()]
    return lines


def _both(mine: Streams, raw: Streams, way: str, *, first: bool) -> str:
    """p50 / p99 of what was added, in ms; of the direct connection what it is."""
    ours, theirs = (mine.first, raw.first) if first else (mine.transit, raw.transit)
    if not ours or not theirs:
        return "none came"
    less = 0.0 if way == DIRECT else 1.0
    added = (1000 * (percentile(ours, share) - less * percentile(theirs, share)) for share in SHARES)
    return " / ".join(f"{value:,.2f}" for value in added)


def _spent(found: Figures, way: str) -> list[str]:
    streams, hammered = list(found.streams.values()), list(found.requests.values())
    failed = sum(mine.errors for mine, _ in streams) + sum(mine.errors for mine, _ in hammered)
    cut = sum(mine.cut for mine, _ in streams)
    sent = sum(mine.streams for mine, _ in streams) + sum(mine.sent for mine, _ in hammered)
    told = [f"{failed:,} of {sent:,}{f' ({cut:,} cut off)' if cut else ''}"]
    if way == DIRECT:
        return [*told, "", "", ""]
    event = sum(spent.cpu for _, spent in streams) * 1e6 / max(sum(mine.events for mine, _ in streams), 1)
    request = sum(spent.cpu for _, spent in hammered) * 1e6 / max(sum(mine.sent for mine, _ in hammered), 1)
    return [*told, f"{event:.0f}", f"{request:.0f}", f"{max(spent.peak for _, spent in streams):.0f}"]
