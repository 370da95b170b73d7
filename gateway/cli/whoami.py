"""`sluice whoami`: who the gateway takes the caller for."""

import click

from gateway.cli import output


@click.command()
@output.json_option
def whoami(*, as_json: bool) -> None:
    """Show who the gateway takes you for: name, projects, Unix users, and what your token may do."""
    from gateway.cli.client import connect

    with connect() as sluice:
        me = sluice.me()
    if as_json:
        output.emit(me)
        return
    high = [word for word, held in (("administrator", me.admin), ("operator", me.operator)) if held]
    held = {"session": me.session, "project": me.project}
    output.fields(
        [
            ("name", me.name + (f" ({', '.join(high)})" if high else "")),
            ("projects", ", ".join(f"{name} ({role})" for name, role in me.projects.items()) or "none"),
            ("Unix user", ", ".join(f"{name} on {cluster}" for cluster, name in me.unix.items())),
            ("groups", ", ".join(me.groups)),
            ("may", ", ".join(me.scopes)),
            ("held to", ", ".join(f"{word} {value}" for word, value in held.items() if value)),
            ("token", me.token or ""),
        ]
    )
