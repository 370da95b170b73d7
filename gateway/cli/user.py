"""`sluice user`: who may come in, and as whom they run."""

from typing import TYPE_CHECKING, cast

import click

from gateway.cli import answers, output
from gateway.cli.project import ROLES
from gateway.errors import Conflict, Forbidden

if TYPE_CHECKING:
    from gateway.model.boarding import BoardView
    from gateway.model.user import UserState, UserView

STATES = ("pending", "active", "disabled", "removed")


@click.group()
def user() -> None:
    """Users: who may come in, and as which Unix user they run on each cluster."""


@user.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only these; `pending` wait to be let in.")
@output.json_option
def list_(*, state: str | None, as_json: bool) -> None:
    """List the users that you may know of: operators see all."""
    from gateway.cli.client import connect

    with connect() as sluice:
        found = sluice.users.list(state=cast("UserState | None", state))
    if as_json:
        output.emit(found)
        return
    rows = [
        (
            view.name,
            view.kind,
            view.state,
            _rights(view),
            _unix(view),
            ", ".join(view.projects),
            output.age(view.seen_at) if view.seen_at else "never",
        )
        for view in found
    ]
    output.table(("name", "kind", "state", "is", "Unix", "projects", "seen"), rows, empty="There are no users.")


@user.command()
@click.argument("name")
@output.json_option
def show(*, name: str, as_json: bool) -> None:
    """Show a user, with how identity providers call them."""
    from gateway.cli.client import connect

    with connect() as sluice:
        view = sluice.users.get(name)
    _say(view, as_json=as_json)


@user.command("set")
@click.argument("name")
@click.option("--unix", multiple=True, metavar="CLUSTER=USER", help="Unix user there; those not named stay.")
@click.option("--admit", "state", flag_value="active", help="Let them in.")
@click.option("--disable", "state", flag_value="disabled", help="Keep them out, until they are let in again.")
@click.option("--operator/--no-operator", default=None, help="Sees all sessions, stops them, keeps users and projects.")
@click.option("--admin/--no-admin", default=None, help="May do everything.")
@output.json_option
def set_(
    *,
    name: str,
    unix: tuple[str, ...],
    state: str | None,
    operator: bool | None,
    admin: bool | None,
    as_json: bool,
) -> None:
    """Change what a user may do. Operators do; administrators make operators and administrators."""
    from gateway.cli.client import connect
    from gateway.model.user import UserRequest

    given = answers.labels(unix)
    with connect() as sluice:
        values: dict[str, object] = {"state": state, "operator": operator, "admin": admin}
        if given:
            before = {account.cluster: account.name for account in sluice.users.get(name).unix}
            values["unix"] = [{"cluster": cluster, "name": word} for cluster, word in {**before, **given}.items()]
        said = {key: value for key, value in values.items() if value is not None}
        view = sluice.users.change(name, UserRequest.model_validate(said))
    _say(view, as_json=as_json)


@user.command()
@click.argument("name")
@click.option("--project", required=True, metavar="NAME", help="Project that they join.")
@click.option("--role", type=click.Choice(ROLES), default="member", show_default=True, help="What they may do in it.")
@click.option("--unix", multiple=True, metavar="CLUSTER=USER", help="Unix user there; unset: called as they are.")
@click.option("--identity", metavar="ISSUER#SUBJECT", help="By which they will sign in.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@output.json_option
def add(
    *,
    name: str,
    project: str,
    role: str,
    unix: tuple[str, ...],
    identity: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take somebody on: user, place in a project, Slurm association, directory. Again at will: what is there stays.

    \b
    sluice user add alice --project physics
    sluice user add alice --project physics --identity https://idp.example.org#248289761001
    """
    from gateway.cli.client import connect
    from gateway.model.boarding import BoardRequest

    issuer, mark, subject = (identity or "").rpartition("#")
    if identity is not None and not (mark and issuer and subject):
        raise click.BadParameter("write ISSUER#SUBJECT", param_hint="--identity")
    known = {"issuer": issuer, "subject": subject} if identity is not None else None
    asked = {"project": project, "role": role, "unix": answers.labels(unix), "identity": known, "dry_run": dry_run}
    with connect() as sluice:
        _steps(sluice.users.take_on(name, BoardRequest.model_validate(asked)), as_json=as_json)


@user.command()
@click.argument("name")
@click.option("--project", required=True, metavar="NAME", help="Project that owns it.")
@click.option("--unix", multiple=True, metavar="CLUSTER=USER", help="Unix user there, by an operator.")
@output.json_option
def service(*, name: str, project: str, unix: tuple[str, ...], as_json: bool) -> None:
    """Make a service account of a project. Its managers do, and make tokens for it: sluice token create --for NAME."""
    from gateway.cli.client import connect
    from gateway.model.user import NewUser

    accounts = [{"cluster": cluster, "name": word} for cluster, word in answers.labels(unix).items()]
    asked = {"name": name, "kind": "service", "project": project, **({"unix": accounts} if accounts else {})}
    with connect() as sluice:
        view = sluice.users.create(NewUser.model_validate(asked))
    _say(view, as_json=as_json)


@user.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--no-archive", is_flag=True, help="Leave their session directories as they are.")
@output.json_option
def remove(*, name: str, dry_run: bool, no_archive: bool, as_json: bool) -> None:
    """See somebody off: revoke, stop, take the associations, pack the directories. What they used stays on record.

    Exit code 7 while something is still ending: run it again.
    """
    from gateway.cli.client import connect
    from gateway.model.boarding import LeaveRequest

    with connect() as sluice:
        _steps(sluice.users.see_off(name, LeaveRequest(dry_run=dry_run, archive=not no_archive)), as_json=as_json)


def _steps(view: "BoardView", *, as_json: bool) -> None:
    if as_json:
        output.emit(view)
    else:
        output.table(("step", "", "why"), [(step.what, step.outcome, step.message) for step in view.steps])
    if failed := [step for step in view.steps if step.outcome == "failed"]:
        raise Forbidden(f"{failed[0].what}: {failed[0].message}")
    if any(step.outcome == "later" for step in view.steps):
        raise Conflict(f"{view.user} is not gone yet", hint=f"Run it again: sluice user remove {view.user}")


def _rights(view: "UserView") -> str:
    return "administrator" if view.admin else "operator" if view.operator else ""


def _unix(view: "UserView") -> str:
    return ", ".join(f"{account.name} on {account.cluster}" for account in view.unix)


def _say(view: "UserView", *, as_json: bool) -> None:
    if as_json:
        output.emit(view)
        return
    output.fields(
        [
            ("user", f"{view.name} ({view.kind}, {view.state})"),
            ("name", view.title),
            ("e-mail", view.email),
            ("is", _rights(view)),
            ("Unix user", _unix(view)),
            ("projects", ", ".join(f"{name} ({role})" for name, role in view.projects.items())),
            ("groups", ", ".join(view.groups)),
            ("known as", ", ".join(f"{each.subject} at {each.issuer}" for each in view.identities)),
        ]
    )
