"""`sluice env`: what scripts and other programs need to use the gateway."""

import shlex

import click

from gateway.cli import output


@click.command()
@output.json_option
def env(*, as_json: bool) -> None:
    """Print SLUICE_URL, SLUICE_TOKEN, OPENAI_BASE_URL and OPENAI_API_KEY as lines for a shell.

    \b
    eval "$(sluice env)"
    """
    from gateway.cli.client import signed_in, where
    from gateway.errors import Unauthenticated

    url, token = where()
    token = token or signed_in(url)
    if not token:
        raise Unauthenticated(
            "there is no token: $SLUICE_TOKEN is not set, and no token file can be read",
            hint="The gateway makes its token at its first start; only the user who runs it may read it.",
        )
    values = {"SLUICE_URL": url, "SLUICE_TOKEN": token, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": token}
    if as_json:
        output.emit(values)
        return
    for name, value in values.items():
        click.echo(f"export {name}={shlex.quote(value)}")
