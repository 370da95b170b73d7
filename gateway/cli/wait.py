"""`sluice wait`: until a session is ready, or has ended."""

from typing import Literal

import click

from gateway.cli import complete, output
from gateway.cli.options import timeout_option


@click.command()
@click.argument("session", shell_complete=complete.sessions)
@click.option(
    "--for",
    "until",
    type=click.Choice(["ready", "ended"]),
    default="ready",
    show_default=True,
    help="ready: it can be used (a batch session: it runs); ended: it is over.",
)
@timeout_option
@output.json_option
def wait(*, session: str, until: Literal["ready", "ended"], timeout: float | None, as_json: bool) -> None:
    """Wait for SESSION. Exit code 0 when it is so, 1 if the session failed, 6 if time ran out."""
    from gateway.cli import progress
    from gateway.cli.client import connect

    with connect() as sluice:
        found = progress.wait(sluice.sessions.get(session), until, timeout, quiet=as_json)
    if as_json:
        output.emit(found.view)
    else:
        click.echo(f"Session {found.name} {output.is_now(found.phase)}.")
