"""What commands print: tables and progress for people, JSON for scripts. rich is imported only when it is used."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def json_option(function: F) -> F:
    """The `--json` flag, given to the command as `as_json`; errors then are JSON, too."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:
        ctx.meta["sluice.json"] = value
        return value

    return click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=remember, help="Print JSON, for scripts."
    )(function)


def emit(value: object) -> None:
    """Print a value as JSON: pydantic models (also within lists and mappings) as the API sends them."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, default=str))


def emit_line(value: object) -> None:
    """Print one value as one line of JSON, for streams."""
    click.echo(json.dumps(_plain(value), ensure_ascii=False, default=str))


def _plain(value: object) -> object:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def interactive(*, err: bool = False) -> bool:
    """People are looking: a terminal, and not a dumb one."""
    stream = sys.stderr if err else sys.stdout
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def console(*, err: bool = False) -> "Console":
    """A rich console on stdout or stderr; it respects NO_COLOR and takes no word for markup."""
    from rich.console import Console

    return Console(stderr=err, markup=False, highlight=False, emoji=False, soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "") -> None:
    """Print a table: rich on a terminal, plain aligned columns elsewhere; `empty` on stderr if there are no rows."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        if empty:
            note(empty)
        return
    if interactive():
        _rich_table(columns, cells)
    else:
        widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
        for row in [[name.upper() for name in columns], *cells]:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print `name: value` lines, aligned; pairs without a value are left out."""
    shown = [(name, _cell(value)) for name, value in pairs if value not in (None, "", [], {}, ())]
    width = max((len(name) for name, _ in shown), default=0) + 2
    for name, value in shown:
        label = styled(f"{name}:".ljust(width), bold=True)
        first, *rest = value.splitlines() or [""]
        click.echo(f"{label}{first}")
        for line in rest:
            click.echo(" " * width + line)


def note(text: str) -> None:
    """A sentence for people, on stderr, so that stdout stays for results."""
    click.echo(text, err=True)


def styled(text: str, *, err: bool = False, **style: Any) -> str:
    """Coloured or bold where that is wanted: on a terminal, and without NO_COLOR."""
    plain = bool(os.environ.get("NO_COLOR")) or not interactive(err=err)
    return text if plain else click.style(text, **style)


def phase(word: str) -> str:
    """A phase in its colour."""
    colours = {"ready": "green", "running": "green", "succeeded": "green", "failed": "red", "stopped": "bright_black"}
    return styled(word, fg=colours.get(word, "yellow"))


def is_now(word: str) -> str:
    """What a session is now, as a sentence goes on: `is ready`, `has succeeded`, `was stopped`."""
    verbs = {"succeeded": "has", "failed": "has", "stopped": "was"}
    return f"{verbs.get(word, 'is')} {phase(word)}"


def span(seconds: float) -> str:
    """A duration in the two largest units: `4s`, `3m 20s`, `2h 5m`, `3d 4h`."""
    whole = max(0, int(seconds))
    for unit, word, lesser, name in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "m"), (_MINUTE, "m", 1, "s")):
        if whole >= unit:
            rest = whole % unit // lesser
            return f"{whole // unit}{word} {rest}{name}" if rest else f"{whole // unit}{word}"
    return f"{whole}s"


def age(moment: datetime | None) -> str:
    """How long ago, or nothing."""
    return "" if moment is None else span((datetime.now(UTC) - moment).total_seconds())


def local(moment: datetime | None) -> str:
    """A moment in the reader's own time zone."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in columns:
        shown.add_column(name.upper(), overflow="fold")
    for row in cells:
        shown.add_row(*(Text.from_ansi(cell) for cell in row))
    console().print(shown)
