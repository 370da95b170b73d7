"""`sluice login`: sign in with the institution's account."""

from pathlib import Path

import click

from gateway.cli import output


@click.command()
@click.option("--client-id", metavar="ID", help="Sign in as a service that the provider knows, with its secret.")
@click.option(
    "--client-secret-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="File with the secret of the service.",
)
@output.json_option
def login(*, client_id: str | None, client_secret_file: Path | None, as_json: bool) -> None:
    """Sign in: open the address that is shown in any browser, on any machine, and confirm the code.

    The tokens are kept in ~/.config/sluice/credentials.json (only you may read it) and renewed as long as the
    provider lets them be. `sluice logout` forgets them.
    """
    from gateway.cli.client import trusted, where
    from gateway.sdk.login import Login

    if (client_id is None) != (client_secret_file is None):
        raise click.UsageError("--client-id and --client-secret-file go together.")
    signing_in = Login(where()[0], trusted())
    try:
        if client_id is not None and client_secret_file is not None:
            me = signing_in.as_service(client_id, client_secret_file.read_text().strip())
        else:
            code = signing_in.begin()
            output.note(f"Open   {code.verification_uri_complete or code.verification_uri}")
            output.note(f"Code   {code.user_code}")
            me = signing_in.wait(code)
    finally:
        signing_in.close()
    if as_json:
        output.emit(me)
    else:
        output.note(f"You are signed in as {me.name} at {signing_in.url}.")
