"""`sluice exec` and `sluice shell`: a program, or a shell, in the running job of a session."""

import sys

import click

from gateway.cli import complete

_CONTEXT = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command("exec", context_settings=_CONTEXT)
@click.option("-t/-T", "--tty/--no-tty", default=None, help="With a terminal; unset: if ours are terminals.")
@click.argument("session", shell_complete=complete.sessions)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(*, session: str, command: tuple[str, ...], tty: bool | None) -> None:
    """Run COMMAND in the running job of SESSION: in its container, with its environment, on its node.

    Input, output and exit code are the command's own. Only the owner of a session goes into it.

    \b
    sluice exec demo -- nvidia-smi
    echo 'print(1)' | sluice exec demo -- python3 -
    sluice exec demo -- sh -c 'tar -C /session -cz results' > results.tar.gz
    """
    _run(session, command, tty)


@click.command()
@click.argument("session", shell_complete=complete.sessions)
def shell(*, session: str) -> None:
    """Open a shell in the running job of SESSION. `~.` at the beginning of a line leaves it when nothing answers."""
    _run(session, (), None)


def _run(session: str, command: tuple[str, ...], tty: bool | None) -> None:
    from gateway.cli import terminal
    from gateway.cli.client import connect

    if command[:1] == ("--",):
        command = command[1:]
    ours = sys.stdin.isatty() and (sys.stdout.isatty() or tty is True)
    if tty and not sys.stdin.isatty():
        raise click.UsageError("--tty needs a terminal as standard input")
    with connect() as sluice:
        code = terminal.run(sluice, session, command, tty=ours if tty is None else tty)
    sys.stdout.flush()
    raise click.exceptions.Exit(code)
