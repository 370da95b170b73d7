"""`sluice delete`: forget sessions that have ended."""

import click

from gateway.cli import complete, output
from gateway.cli.each import for_each


@click.command()
@click.argument("sessions", nargs=-1, metavar="[SESSION]...", shell_complete=complete.ended_sessions)
@click.option("--all", "everything", is_flag=True, help="All of yours that have ended.")
@click.option("--files", is_flag=True, help="Remove their directories on the cluster, too: logs and outputs.")
@output.json_option
def delete(*, sessions: tuple[str, ...], everything: bool, files: bool, as_json: bool) -> None:
    """Forget each SESSION that has ended. Its files on the cluster stay unless --files is given."""
    from gateway.cli.client import connect

    if bool(sessions) == everything:
        raise click.UsageError("Name sessions, or give --all.")
    with connect() as sluice:
        names = [session.id for session in sluice.sessions.list(ended=True)] if everything else list(sessions)

        def forget(name: str) -> str:
            sluice.sessions.delete(name, files=files)
            if not as_json:
                click.echo(f"Session {name} is forgotten.")
            return name

        gone = for_each(names, forget)
    if as_json:
        output.emit({"deleted": gone.done})
    elif not names:
        output.note("There are no sessions that have ended.")
    gone.finish()
