"""`sluice scale`, `extend`, `update`, `resume`: what may be asked of a session that runs, or has."""

from typing import TYPE_CHECKING, Any

import click

from gateway.cli import answers, complete, output
from gateway.cli.options import duration

if TYPE_CHECKING:
    from gateway.sdk import Session

#: Of an extension, in seconds.
_SHORTEST, _LONGEST = 60, 30 * 86400


@click.command()
@click.argument("session", shell_complete=complete.sessions)
@click.argument("replicas", metavar="N|MIN..MAX")
@output.json_option
def scale(*, session: str, replicas: str, as_json: bool) -> None:
    """Let N jobs serve SESSION, or as many between MIN and MAX as there is to do for; 0..N lets it sleep."""
    from gateway.cli.client import connect

    asked = answers.replicas(replicas)
    with connect() as sluice:
        found = sluice.sessions.scale(session, asked["min"] or 0, asked["max"])
    _say(found, f"is served by {replicas} jobs from now on", as_json=as_json)


@click.command()
@click.argument("session", shell_complete=complete.sessions)
@click.option(
    "--for", "span", type=duration, default=7200.0, metavar="TIME", help="For so long: 90m, 2h (the default)."
)
@output.json_option
def extend(*, session: str, span: float, as_json: bool) -> None:
    """Do not stop SESSION for being idle, for some time from now. Until when is what it says, and `sluice show`."""
    from gateway.cli.client import connect

    if not _SHORTEST <= span <= _LONGEST:
        raise click.BadParameter("give a time between one minute and 30 days, for example 2h", param_hint="--for")
    with connect() as sluice:
        found = sluice.sessions.extend(session, int(span))
    _say(found, f"is not stopped for being idle before {output.local(found.view.keep_until)}", as_json=as_json)


@click.command()
@click.argument("session", shell_complete=complete.sessions)
@answers.parameter_option
@answers.resource_options
@click.option("--image", metavar="NAME", help="Another image; unset: the newest of the recipe's.")
@click.option("--version", metavar="VERSION", help="Version of the recipe; unset: the newest.")
@output.json_option
def update(
    *,
    session: str,
    parameters: tuple[str, ...],
    image: str | None,
    version: str | None,
    as_json: bool,
    **resources: Any,
) -> None:
    """Run SESSION with other parameters, resources or another image, without a gap.

    A job with the changes becomes ready and takes over, then the one before drains and ends. If it does not become
    ready, the session goes on as it was. What is not said stays.
    """
    from gateway.cli.client import connect

    with connect() as sluice:
        found = sluice.sessions.update(
            session,
            parameters=answers.parse(parameters) or None,
            resources=answers.resources(resources) or None,
            image=image,
            version=version,
        )
    _say(found, "is updated as soon as a job with the changes is ready", as_json=as_json)


@click.command()
@click.argument("session", shell_complete=complete.any_sessions)
@output.json_option
def resume(*, session: str, as_json: bool) -> None:
    """Start the ended SESSION again: the same parameters, the same directory."""
    from gateway.cli.client import connect

    with connect() as sluice:
        found = sluice.sessions.resume(session)
    _say(found, "is started again", as_json=as_json)


def _say(session: "Session", what: str, *, as_json: bool) -> None:
    if as_json:
        output.emit(session.view)
    else:
        click.echo(f"Session {session.name} {what}.")
