"""`sluice token`: tokens for programs: named, scoped, expiring."""

import click

from gateway.cli import output

SCOPES = ("sessions:read", "sessions:write", "inference", "admin")


@click.group()
def token() -> None:
    """Tokens for programs: each has a name, an end, and does only what its scopes say."""


@token.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="What it may do, any number of times; unset: all but admin.",
)
@click.option("--days", default=30.0, show_default=True, help="Days until it expires.")
@click.option("--project", metavar="NAME", help="Hold it to this project.")
@click.option("--session", metavar="REF", help="Hold it to this one session.")
@click.option("--for", "user", metavar="ACCOUNT", help="A service account of your project; unset: you.")
@output.json_option
def create(
    *,
    name: str,
    scopes: tuple[str, ...],
    days: float,
    project: str | None,
    session: str | None,
    user: str | None,
    as_json: bool,
) -> None:
    """Make a token and print it: this once, it is kept nowhere.

    \b
    sluice token create ci --scope sessions:write --scope sessions:read --project physics
    export SLUICE_TOKEN=$(sluice token create notebook --scope inference --days 7)
    """
    from gateway.cli.client import connect
    from gateway.model.principal import Scope
    from gateway.model.token import TokenRequest

    asked = frozenset(Scope(scope) for scope in scopes) or None
    with connect() as sluice:
        wanted = TokenRequest(name=name, scopes=asked, days=days, project=project, session=session, user=user)
        made = sluice.tokens.create(wanted)
    if as_json:
        output.emit(made)
        return
    click.echo(made.token)
    output.note(f"It may: {', '.join(made.scopes)}. Until {made.expires_at:%Y-%m-%d %H:%M} UTC. Not shown again.")


@token.command("list")
@click.option("--all", "revoked", is_flag=True, help="Those that were revoked, too.")
@output.json_option
def list_(*, revoked: bool, as_json: bool) -> None:
    """List your tokens, and those of the service accounts that you keep."""
    from gateway.cli.client import connect

    with connect() as sluice:
        found = sluice.tokens.list(revoked=revoked)
    if as_json:
        output.emit(found)
        return
    rows = [
        (
            view.id,
            view.name,
            view.user,
            " ".join(view.scopes),
            view.session or view.project or "",
            f"{view.expires_at:%Y-%m-%d}",
            output.age(view.last_used_at) if view.last_used_at else "never",
            "revoked" if view.revoked_at else "",
        )
        for view in found
    ]
    output.table(("id", "name", "of", "may", "held to", "until", "used", ""), rows, empty="There are no tokens.")


@token.command()
@click.argument("ref")
@output.json_option
def revoke(*, ref: str, as_json: bool) -> None:
    """Revoke a token, by its name or id. When this returns nobody takes it any more."""
    from gateway.cli.client import connect

    with connect() as sluice:
        view = sluice.tokens.revoke(ref)
    if as_json:
        output.emit(view)
    else:
        output.note(f"Token {view.name} ({view.id}) is revoked.")
