"""`sluice logout`: forget the tokens of a sign-in."""

import click

from gateway.cli import output


@click.command()
@output.json_option
def logout(*, as_json: bool) -> None:
    """Forget the tokens that `sluice login` kept, and tell the provider."""
    from gateway.cli.client import where
    from gateway.sdk.login import sign_out

    url, _ = where()
    there = sign_out(url)
    if as_json:
        output.emit({"url": url, "signed_out": there})
    else:
        output.note(f"You are signed out of {url}." if there else f"You were not signed in at {url}.")
