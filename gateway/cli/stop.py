"""`sluice stop`: end sessions."""

import click

from gateway.cli import complete, output
from gateway.cli.each import for_each
from gateway.cli.options import timeout_option


@click.command()
@click.argument("sessions", nargs=-1, metavar="[SESSION]...", shell_complete=complete.sessions)
@click.option("--all", "everything", is_flag=True, help="All of your live sessions.")
@click.option("--wait", is_flag=True, help="Wait until they have ended.")
@timeout_option
@output.json_option
def stop(*, sessions: tuple[str, ...], everything: bool, wait: bool, timeout: float | None, as_json: bool) -> None:
    """Stop each SESSION: its program is told to end, has its grace, and the job is then ended. It may be repeated."""
    from gateway.cli import progress
    from gateway.cli.client import connect
    from gateway.sdk import Session

    if bool(sessions) == everything:
        raise click.UsageError("Name sessions, or give --all.")
    with connect() as sluice:
        names = [session.id for session in sluice.sessions.list(ended=False)] if everything else list(sessions)

        def end(name: str) -> Session:
            session = sluice.sessions.stop(name)
            if wait and not session.ended:
                session = progress.wait(session, "ended", timeout, quiet=as_json)
            if not as_json:
                click.echo(f"Session {session.name} {output.is_now(session.phase if session.ended else 'stopping')}.")
            return session

        ended = for_each(names, end)
    if as_json:
        output.emit([session.view for session in ended.done])
    elif not names:
        output.note("There are no live sessions.")
    ended.finish()
