"""Line charts as SVG: a title, a sentence for those who do not see it, axes, lines.

Our own, because a page of a run needs one kind of chart: libraries for it are a hundred times as large (matplotlib,
plotly), bring scripts, or know neither dark pages nor words for screen readers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from gateway.sdk.bench.markup import element

WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 44
_TICKS = 5
_HUES = 8

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """`logarithmic` for what spans powers of ten; values must be above 0 then."""

    label: str
    words: Callable[[float], str]
    logarithmic: bool = False
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Line:
    """Points from left to right. `hue` numbers its colour and its dashes."""

    name: str
    points: Sequence[Point]
    hue: int = 0


def chart(title: str, summary: str, lines: Sequence[Line], x: Axis, y: Axis) -> Element:
    """A figure with its legend; `summary` says in words what is to be seen."""
    shown = [Line(line.name, [point for point in line.points if _fits(point, x, y)], line.hue) for line in lines]
    shown = [line for line in shown if line.points]
    across = _Scale(x, [point[0] for line in shown for point in line.points], _LEFT, WIDTH - _RIGHT)
    up = _Scale(y, [point[1] for line in shown for point in line.points], HEIGHT - _BOTTOM, _TOP)
    drawing = element(
        "svg",
        {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": f"{title}. {summary}"},
        element("title", {}, title),
        *(_grid_x(at, across, x) for at in across.ticks),
        *(_grid_y(at, up, y) for at in up.ticks),
        _text(x.label, (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, "middle"),
        *(_path(line, across, up) for line in shown),
    )
    legend = element("ul", {"class": "legend"}, *(_entry(line) for line in shown)) if len(shown) > 1 else None
    caption = element("figcaption", {}, element("h3", {}, title), element("p", {}, f"{y.label}. {summary}"), legend)
    return element("figure", {}, caption, drawing)


class _Scale:
    def __init__(self, axis: Axis, values: Sequence[float], low: float, high: float) -> None:
        self._low, self._high, self._log = low, high, axis.logarithmic
        least = min(values, default=1.0) if axis.least is None else axis.least
        most = max(values, default=1.0) if axis.most is None else axis.most
        if axis.logarithmic:
            self.ticks = _powers(least, most)
            self._from, self._to = math.log(min(least, self.ticks[0])), math.log(max(most, self.ticks[-1]))
        else:
            self.ticks = _round_ticks(least, most)
            self._from, self._to = min(least, self.ticks[0]), max(most, self.ticks[-1])

    def __call__(self, value: float) -> float:
        place = math.log(value) if self._log else value
        return self._low + (self._high - self._low) * (place - self._from) / ((self._to - self._from) or 1)


def _round_ticks(least: float, most: float) -> list[float]:
    """Round numbers from one at or below the least to one at or above the most."""
    span = (most - least) or abs(most) or 1.0
    size = 10 ** math.floor(math.log10(span / _TICKS))
    step = next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= _TICKS)
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _powers(least: float, most: float) -> list[float]:
    """1, 2, 5, 10, ... around the values; powers of ten alone where those are many."""
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    factors = (1, 2, 5) if high - low <= 2 else (1,)  # noqa: PLR2004 -- two powers of ten
    every = [factor * 10.0**power for power in range(low, high + 1) for factor in factors]
    first = max((index for index, tick in enumerate(every) if tick <= least * 1.0000001), default=0)
    last = next((index for index, tick in enumerate(every) if tick >= most * 0.9999999), len(every) - 1)
    return every[first : max(last, first + 1) + 1]


def _fits(point: Point, x: Axis, y: Axis) -> bool:
    return all(math.isfinite(value) for value in point) and all(
        value > 0 or not axis.logarithmic for value, axis in zip(point, (x, y), strict=True)
    )


def _grid_x(at: float, scale: _Scale, axis: Axis) -> Element:
    place = f"{scale(at):.1f}"
    rule = element("line", {"x1": place, "x2": place, "y1": str(_TOP), "y2": str(HEIGHT - _BOTTOM), "class": "grid"})
    return element("g", {}, rule, _text(axis.words(at), scale(at), HEIGHT - _BOTTOM + 16, "middle"))


def _grid_y(at: float, scale: _Scale, axis: Axis) -> Element:
    place = f"{scale(at):.1f}"
    rule = element("line", {"x1": str(_LEFT), "x2": str(WIDTH - _RIGHT), "y1": place, "y2": place, "class": "grid"})
    return element("g", {}, rule, _text(axis.words(at), _LEFT - 6, scale(at) + 4, "end"))


def _text(words: str, x: float, y: float, anchor: str) -> Element:
    return element("text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}, words)


def _path(line: Line, across: _Scale, up: _Scale) -> Element:
    places = [f"{across(x):.1f},{up(y):.1f}" for x, y in line.points]
    name = element("title", {}, line.name)
    if len(places) == 1:
        x, y = places[0].split(",")
        return element("circle", {"cx": x, "cy": y, "r": "4", "class": f"dot hue{line.hue % _HUES}"}, name)
    return element("polyline", {"points": " ".join(places), "class": f"line hue{line.hue % _HUES}"}, name)


def _entry(line: Line) -> Element:
    stroke = element("line", {"x1": "0", "x2": "28", "y1": "6", "y2": "6", "class": f"line hue{line.hue % _HUES}"})
    sample = element("svg", {"width": "28", "height": "12", "aria-hidden": "true"}, stroke)
    return element("li", {}, sample, f" {line.name}")
