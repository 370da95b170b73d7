"""`sluice open`: a session's pages in a browser."""

import click

from gateway.cli import complete, output


@click.command("open")
@click.argument("session", shell_complete=complete.sessions)
@click.option("--print", "only_print", is_flag=True, help="Print the address, and start no browser.")
@output.json_option
def open_(*, session: str, only_print: bool, as_json: bool) -> None:
    """Open the pages of SESSION (a name or an id) in a browser, without a password.

    The address lets one browser in, once and within a minute; that has a cookie for this session then.
    """
    import webbrowser

    from gateway.cli.client import connect

    with connect() as sluice:
        address = sluice.sessions.link(session)
    if as_json:
        output.emit({"url": address})
    elif only_print or not webbrowser.open(address):
        click.echo(address)
    else:
        output.note(f"{session} opens in your browser.")
