"""`sluice audit`: who did what, and what was refused; and whether that is all still as it was written."""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import click

from gateway.cli import output
from gateway.cli.options import duration

if TYPE_CHECKING:
    from gateway.sdk._sync.audit import AuditFilters

F = TypeVar("F", bound=Callable[..., Any])


def moment(text: str) -> datetime:
    """`2026-01-05`, `2026-01-05T10:00`, or how long ago: `2h`, `7d`. Without a zone: the reader's own."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return datetime.now(UTC) - timedelta(seconds=duration(text))


_filters = [
    click.option("--who", metavar="NAME", help="Only of this principal; `system` is the gateway itself."),
    click.option("--action", metavar="ACTION", help="Only this action: session.create, token.revoke, ...."),
    click.option("--object", "object", metavar="REF", help="Only of this object, by its id or name."),
    click.option("--session", metavar="ID", help="Only what concerns the session of this id."),
    click.option("--decision", type=click.Choice(["allow", "deny", "refuse"]), help="Only these; `deny`: denials."),
    click.option("--since", type=moment, metavar="TIME", help="From then on: a date, or how long ago (2h, 7d)."),
    click.option("--until", type=moment, metavar="TIME", help="Before then."),
]


def _with_filters(command: F) -> F:
    for option in reversed(_filters):
        command = option(command)
    return command


@click.group()
def audit() -> None:
    """The audit log: who did what, and what was refused. Operators see all, everybody their own doing."""


@audit.command("list")
@_with_filters
@click.option("-n", "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@output.json_option
def list_(*, limit: int, as_json: bool, **filters: Any) -> None:
    """List rows, newest first."""
    from gateway.cli.client import connect

    with connect() as sluice:
        rows = list(islice(sluice.audit.list(page_size=min(limit, 500), **_given(filters)), limit))
    if as_json:
        output.emit(rows)
        return
    shown = [
        (
            row.id,
            output.local(row.at),
            row.who or "nobody",
            row.origin,
            row.action,
            row.object,
            row.job_id,
            row.outcome if row.decision == "allow" else f"{row.decision}: {row.outcome}",
        )
        for row in rows
    ]
    output.table(("id", "when", "who", "by", "action", "object", "job", "outcome"), shown, empty="There are no rows.")


@audit.command()
@_with_filters
@click.option("-o", "--output", "file", type=click.File("w"), default="-", help="File to write; unset: stdout.")
def export(*, file: IO[str], **filters: Any) -> None:
    """Write rows as JSON, one a line, oldest first. Without filters it is the whole chain: `verify --file` walks it."""
    from gateway.cli.client import connect

    with connect() as sluice:
        for row in sluice.audit.export(**_given(filters)):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


@audit.command()
@output.json_option
def head(*, as_json: bool) -> None:
    """Print the newest row's number and hash. Keep it elsewhere, for `verify --expect`."""
    from gateway.cli.client import connect

    with connect() as sluice:
        found = sluice.audit.head()
    if as_json:
        output.emit(found)
    else:
        click.echo(f"{found.id} {found.hash}")


@audit.command()
@click.option("--expect", metavar="HASH", help="A head that you kept: it must be the hash of a row.")
@click.option("--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="An export, offline.")
@output.json_option
def verify(*, expect: str | None, file: Path | None, as_json: bool) -> None:
    """Walk the chain of all rows, on this machine, and name the first that is not as it was written.

    \b
    sluice audit head >> /safe/place/heads
    sluice audit verify --expect "$(tail -1 /safe/place/heads | cut -d' ' -f2)"
    """
    from gateway.model.audit import walk

    if file is not None:
        with file.open() as lines:
            found = walk(_rows(lines), expect)
    else:
        from gateway.cli.client import connect

        with connect() as sluice:
            found = sluice.audit.verify(expect)
    if as_json:
        output.emit({"whole": True, **found.model_dump()})
    else:
        click.echo(f"The audit log is whole: {found.id} rows. Its head: {found.hash}")


def _rows(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    from gateway.errors import AuditBroken

    for number, line in enumerate(lines, 1):
        try:
            yield dict(json.loads(line))
        except ValueError as error:
            raise AuditBroken(f"the audit log is not whole: line {number} is no row", row=None) from error


def _given(filters: dict[str, Any]) -> "AuditFilters":
    return cast("AuditFilters", {name: value for name, value in filters.items() if value is not None})
