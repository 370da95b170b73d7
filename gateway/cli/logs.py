"""`sluice logs`: what a session's program wrote, or its job."""

import click

from gateway.cli import complete, output


@click.command()
@click.argument("session", shell_complete=complete.any_sessions)
@click.option("-f", "--follow", is_flag=True, help="Go on until the session has ended.")
@click.option("--job", "of_job", is_flag=True, help="The job's log: what the agent and the batch shell said.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Of an earlier job of the session.")
@output.json_option
def logs(*, session: str, follow: bool, of_job: bool, tail: int | None, attempt: int | None, as_json: bool) -> None:
    """Show the log of SESSION. With --json: one object for each piece, a line each."""
    from gateway.cli.client import connect

    with connect() as sluice:
        pieces = sluice.sessions.logs(
            session, follow=follow, file="job" if of_job else "service", tail=tail, attempt=attempt
        )
        text = ""
        for text in pieces:
            if as_json:
                output.emit_line({"text": text})
            else:
                click.echo(text, nl=False)
        if text and not as_json and not text.endswith("\n"):
            click.echo()
        if not text and not as_json:
            output.note(
                "The log is empty so far." + ("" if of_job else " What the job did: sluice logs --job " + session)
            )
