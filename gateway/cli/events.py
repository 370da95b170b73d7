"""`sluice events`: what happened, and what happens, to sessions."""

from collections import deque
from typing import TYPE_CHECKING

import click

from gateway.cli import complete, output

if TYPE_CHECKING:
    from gateway.model.api import EventView


@click.command()
@click.argument("session", required=False, shell_complete=complete.any_sessions)
@click.option("-f", "--follow", is_flag=True, help="Go on as things happen (of one session: until it has ended).")
@click.option("--after", type=click.IntRange(min=0), metavar="ID", help="Only what followed the event of this id.")
@click.option("-n", "--tail", type=click.IntRange(min=1), default=50, show_default=True, help="At most the last N.")
@output.json_option
def events(*, session: str | None, follow: bool, after: int | None, tail: int, as_json: bool) -> None:
    """Show what happened to SESSION, or to all of your sessions. With --json: one object for each, a line each."""
    from gateway.cli.client import connect

    with connect() as sluice:
        start = after or 0
        if after is None:
            known = sluice.sessions.events(session) if session else sluice.events(after=0, follow=False)
            for event in deque(known, maxlen=tail):
                _print(event, as_json=as_json)
                start = event.id
        if follow or after is not None:
            stream = (
                sluice.sessions.events(session, after=start, follow=follow)
                if session
                else sluice.events(after=start, follow=follow)
            )
            for event in stream:
                _print(event, as_json=as_json)


def _print(event: "EventView", *, as_json: bool) -> None:
    if as_json:
        output.emit_line(event)
        return
    told = "  ".join(f"{name}={value}" for name, value in event.data.items() if value not in (None, ""))
    number = output.styled(f"{event.id:>6}", fg="bright_black")
    click.echo(f"{number}  {output.local(event.at)}  {event.session}  {event.type:<18} {told}".rstrip())
