"""`sluice secret`: named secrets, kept encrypted, for sessions. A value is never an argument: others see those."""

import sys
from pathlib import Path

import click

from gateway.cli import output

_project = click.option("--project", metavar="NAME", help="A project's; unset: your own.")


@click.group()
def secret() -> None:
    """Named secrets (tokens of hubs, passwords): recipes and sessions refer to them by name."""


@secret.command("set")
@click.argument("name")
@_project
@click.option(
    "--from-file",
    "file",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    help="Take the value from a file; -: from standard input.",
)
@output.json_option
def set_(*, name: str, project: str | None, file: Path | None, as_json: bool) -> None:
    """Keep a value under NAME: typed unseen, or from a file or a pipe. It is never shown again.

    \b
    sluice secret set hub
    sluice secret set hub --project physics --from-file token.txt
    pass show hub | sluice secret set hub

    The line break at the end of a single line is not part of the value. A project's secrets are set by its managers.
    """
    from gateway.cli.client import connect

    value = _read(name, file)
    with connect() as sluice:
        view = sluice.secrets.set(name, value, project=project)
    if as_json:
        output.emit(view)
    else:
        output.note(f"Secret {view.name} is kept{f' for project {view.project}' if view.project else ''}.")


@secret.command("list")
@output.json_option
def list_(*, as_json: bool) -> None:
    """List the secrets that you may use: yours, and those of your projects. Never their values."""
    from gateway.cli.client import connect

    with connect() as sluice:
        found = sluice.secrets.list()
    if as_json:
        output.emit(found)
        return
    rows = [(view.name, view.project or "you", output.age(view.updated_at), view.updated_by) for view in found]
    output.table(("name", "of", "set", "by"), rows, empty="There are no secrets.")


@secret.command()
@click.argument("name")
@_project
def remove(*, name: str, project: str | None) -> None:
    """Forget a secret. Sessions that were given it keep it until they end."""
    from gateway.cli.client import connect

    with connect() as sluice:
        sluice.secrets.remove(name, project=project)
    output.note(f"Secret {name} is gone.")


@secret.command("rotate-key")
@output.json_option
def rotate_key(*, as_json: bool) -> None:
    """Encrypt all secrets anew, with a new key. Where the gateway runs, while it runs; broken off, run it again.

    The key before stays in the file until the next rotation, as a server may be using it. Keys that come from
    $SLUICE_SECRET_KEYS are yours to make: put a new one first, restart the servers, then run this.
    """
    import asyncio
    import os

    from gateway.core.secrets import rotate
    from gateway.identity.keyring import Keyring
    from gateway.settings import load
    from gateway.store.database import Database

    settings = load()
    keyring = Keyring.open(settings.state_dir, settings.secrets.key_file, os.environ)
    database = Database(settings.database)
    database.open()
    try:
        done = asyncio.run(rotate(database, keyring))
    finally:
        database.close()
    if as_json:
        output.emit(
            {
                "key": done.key,
                "new": done.begun,
                "sealed_again": done.sealed_again,
                "forgotten": list(done.forgotten),
            }
        )
        return
    what = f"New key {done.key}" if done.begun else f"Key {done.key}"
    output.note(f"{what}: {done.sealed_again} secrets encrypted anew, {len(done.forgotten)} old keys forgotten.")


def _read(name: str, file: Path | None) -> str:
    """BadParameter if it is no text."""
    if file is None and sys.stdin.isatty():
        value: str = click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True)
        return value
    try:
        data = sys.stdin.buffer.read() if file is None or str(file) == "-" else file.read_bytes()
        text = data.decode()
    except OSError as error:
        raise click.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="--from-file") from None
    except UnicodeDecodeError:
        raise click.BadParameter("the value is not UTF-8 text", param_hint="--from-file") from None
    line = text.rstrip("\r\n")
    return text if "\n" in line else line
