"""`sluice version`."""

from importlib import metadata

import click

from gateway.cli import output


@click.command()
@output.json_option
def version(as_json: bool) -> None:
    """Print the version of this command line."""
    try:
        number = metadata.version("sluice")
    except metadata.PackageNotFoundError:
        number = "0 (not installed)"
    if as_json:
        output.emit({"version": number})
    else:
        click.echo(f"sluice {number}")
