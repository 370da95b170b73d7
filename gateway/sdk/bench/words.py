"""Numbers as people read them, on the terminal and on the page alike."""

from gateway.sdk.bench.compare import Unit

_SECOND = 1.0


def seconds(value: float | None) -> str:
    """`0.35 ms`, `35.2 ms`, `1.24 s`."""
    if value is None:
        return ""
    if value >= _SECOND:
        return f"{_short(value)} s"
    return f"{_short(value * 1000)} ms"


def number(value: float | None) -> str:
    """Three digits, or all of a whole number."""
    if value is None:
        return ""
    return f"{value:.0f}" if value == int(value) else _short(value)


def of_unit(value: float | None, unit: Unit) -> str:
    return seconds(value) if unit == "s" else number(value)


def change(value: float | None) -> str:
    """A share as `+12 %`."""
    return "" if value is None else f"{value:+.1%}".replace("%", " %")


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"  # noqa: PLR2004
