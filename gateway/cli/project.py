"""`sluice project`: who works together, and under which Slurm account."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gateway.cli import answers, output
from gateway.errors import Invalid

if TYPE_CHECKING:
    from gateway.model.project import ProjectView, Share

F = TypeVar("F", bound=Callable[..., Any])
ROLES = ("viewer", "member", "manager")

_shares = [
    click.option("--title", metavar="TEXT", help="A line about it."),
    click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label, any number of times."),
    click.option("--account", "accounts", multiple=True, metavar="CLUSTER=ACCOUNT", help="Slurm account on a cluster."),
    click.option("--qos", multiple=True, metavar="CLUSTER=QOS,...", help="QOS it may use there, the usual one first."),
    click.option(
        "--partitions", multiple=True, metavar="CLUSTER=NAME,...", help="Partitions it may use, the usual one first."
    ),
]


def _with_shares(command: F) -> F:
    for option in reversed(_shares):
        command = option(command)
    return command


@click.group()
def project() -> None:
    """Projects: their members, and their Slurm account, QOS and partitions on each cluster."""


@project.command("list")
@output.json_option
def list_(*, as_json: bool) -> None:
    """List your projects; operators see all."""
    from gateway.cli.client import connect

    with connect() as sluice:
        found = sluice.projects.list()
    if as_json:
        output.emit(found)
        return
    rows = [(view.name, view.state, view.role or "", len(view.members), _accounts(view), view.title) for view in found]
    output.table(("name", "state", "you", "members", "accounts", "title"), rows, empty="There are no projects.")


@project.command()
@click.argument("name")
@output.json_option
def show(*, name: str, as_json: bool) -> None:
    """Show a project with its members."""
    from gateway.cli.client import connect

    with connect() as sluice:
        view = sluice.projects.get(name)
    _say(view, as_json=as_json)


@project.command()
@click.argument("name")
@_with_shares
@output.json_option
def create(
    *,
    name: str,
    title: str | None,
    labels: tuple[str, ...],
    accounts: tuple[str, ...],
    qos: tuple[str, ...],
    partitions: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a project. Operators do.

    \b
    sluice project create physics --account hpc=phys --qos hpc=normal --partitions hpc=cpu,gpu
    """
    from gateway.cli.client import connect
    from gateway.model.project import NewProject

    shares = _read_shares(accounts, qos, partitions)
    with connect() as sluice:
        wanted = NewProject(name=name, title=title, labels=answers.labels(labels), shares=shares)
        view = sluice.projects.create(wanted)
    _say(view, as_json=as_json)


@project.command("set")
@click.argument("name")
@_with_shares
@click.option("--no-labels", is_flag=True, help="Take all labels away.")
@output.json_option
def set_(
    *,
    name: str,
    title: str | None,
    labels: tuple[str, ...],
    accounts: tuple[str, ...],
    qos: tuple[str, ...],
    partitions: tuple[str, ...],
    no_labels: bool,
    as_json: bool,
) -> None:
    """Change a project. What is not said stays; labels, QOS or partitions that are said replace those before.

    \b
    sluice project set physics --qos hpc=normal,long --partitions hpc=
    """
    from gateway.cli.client import connect
    from gateway.model.project import ProjectRequest

    if labels and no_labels:
        raise click.UsageError("--label and --no-labels exclude each other.")
    with connect() as sluice:
        shares = sluice.projects.get(name).shares if accounts or qos or partitions else ()
        values = {
            "title": title,
            "labels": answers.labels(labels) if labels or no_labels else None,
            "shares": _read_shares(accounts, qos, partitions, shares) or None,
        }
        said = {key: value for key, value in values.items() if value is not None}
        view = sluice.projects.change(name, ProjectRequest.model_validate(said))
    _say(view, as_json=as_json)


@project.command()
@click.argument("name")
@click.argument("user")
@click.option("--role", type=click.Choice(ROLES), default="member", show_default=True, help="What they may do.")
@click.option("--remove", is_flag=True, help="Let them out instead.")
@output.json_option
def member(*, name: str, user: str, role: str, remove: bool, as_json: bool) -> None:
    """Take USER into a project, give them another role, or let them out. Managers do."""
    from gateway.cli.client import connect
    from gateway.model.principal import Role

    with connect() as sluice:
        view = (
            sluice.projects.remove_member(name, user) if remove else sluice.projects.set_member(name, user, Role(role))
        )
    _say(view, as_json=as_json)


@project.command()
@click.argument("name")
@click.option("--undo", is_flag=True, help="Make it active again.")
@output.json_option
def archive(*, name: str, undo: bool, as_json: bool) -> None:
    """Let nothing new start in a project; what was stays to be read."""
    from gateway.cli.client import connect

    with connect() as sluice:
        view = sluice.projects.set_state(name, "active" if undo else "archived")
    _say(view, as_json=as_json)


def _read_shares(
    accounts: tuple[str, ...], qos: tuple[str, ...], partitions: tuple[str, ...], before: "Sequence[Share]" = ()
) -> "tuple[Share, ...]":
    """What a project has on each cluster: as before, but for what is said."""
    from gateway.model.project import Share

    named, allowed, places = (answers.labels(given) for given in (accounts, qos, partitions))
    found: dict[str, dict[str, Any]] = {share.cluster: share.model_dump() for share in before}
    if alone := (set(allowed) | set(places)) - set(named) - set(found):
        raise Invalid(
            f"no account is named for {', '.join(sorted(alone))}", hint="--account CLUSTER=ACCOUNT goes with it."
        )
    for field, said in (("account", named), ("qos", allowed), ("partitions", places)):
        for cluster, words in said.items():
            value = words if field == "account" else tuple(filter(None, words.split(",")))
            found.setdefault(cluster, {"cluster": cluster})[field] = value
    return tuple(Share.model_validate(share) for share in found.values())


def _accounts(view: "ProjectView", *, bounds: bool = False) -> str:
    return ", ".join(f"{share.account} on {share.cluster}{_bounds(share) if bounds else ''}" for share in view.shares)


def _bounds(share: "Share") -> str:
    named = (("QOS", share.qos), ("partitions", share.partitions))
    said = [f"{kind} {', '.join(words)}" for kind, words in named if words]
    return f" ({'; '.join(said)})" if said else ""


def _say(view: "ProjectView", *, as_json: bool) -> None:
    if as_json:
        output.emit(view)
        return
    output.fields(
        [
            ("project", view.name + (f" ({view.state})" if view.state != "active" else "")),
            ("title", view.title),
            ("labels", ", ".join(f"{name}={value}" for name, value in view.labels.items())),
            ("accounts", _accounts(view, bounds=True)),
            ("you", view.role or ""),
        ]
    )
    rows = [(member.user, member.role, member.source) for member in view.members]
    output.table(("member", "role", "by"), rows, empty="It has no members.")
