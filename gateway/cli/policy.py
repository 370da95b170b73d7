"""`sluice policy`: who may do what, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import answers, complete, output

if TYPE_CHECKING:
    from gateway.model.policy import Decision, PolicyView

#: As gateway.model.policy has them, which the command line does not load to show its help.
ACTIONS = (
    *("create", "stop", "delete", "read", "logs", "script", "call", "open", "enter"),
    *("scale", "extend", "update", "resume"),
    *("see", "set", "remove", "use"),
    *("user.create", "user.change", "user.remove", "user.take_on", "user.see_off"),
    *("project.create", "project.change", "project.archive", "member.set", "member.remove"),
    *("token.create", "token.revoke"),
)
ROLES = ("viewer", "member", "manager")
ORIGINS = ("api", "cli", "browser", "socket", "kubernetes")


@click.group()
def policy() -> None:
    """Policies: list and show those in force, check files, and ask why something is allowed or not."""


@policy.command("list")
@output.json_option
def list_(*, as_json: bool) -> None:
    """List the policies in force."""
    from gateway.cli.client import connect

    with connect() as sluice:
        page = sluice.policies.list()
    if as_json:
        output.emit(page)
        return
    rows = [(view.id, view.effect, view.allows, _where(view)) for view in page.items]
    output.table(("policy", "effect", "allows", "from"), rows)
    for problem in page.problems:
        output.note(f"Broken, so the set before stays in force: {_line(problem.model_dump())}")


def _where(view: "PolicyView") -> str:
    return "the gateway" if view.effect == "fixed" else f"{Path(view.file).name}:{view.line}"


@policy.command()
@click.argument("name")
@output.json_option
def show(*, name: str, as_json: bool) -> None:
    """Show the policy NAME in Cedar; of a limit all that was made of it; `schema` for what policies can speak of."""
    from gateway.cli.client import connect
    from gateway.errors import NotFound
    from gateway.model.text import nearest

    with connect() as sluice:
        if name == "schema":
            text = sluice.policies.schema()
            if as_json:
                output.emit({"schema": text})
            else:
                click.echo(text, nl=False)
            return
        page = sluice.policies.list()
    found = [view for view in page.items if name in {view.id, view.limit}]
    if not found:
        near = nearest(name, [view.id for view in page.items])
        hint = f"Did you mean {near!r}?" if near else "`sluice policy list` shows them."
        raise NotFound(f"there is no policy {name!r}", hint=hint)
    if as_json:
        output.emit(found)
        return
    for view in found:
        if view.effect == "fixed":
            more = f" ({view.text})" if view.text else ""
            click.echo(f"// A rule of the gateway's own, which no policy changes: {view.allows}{more}\n")
        else:
            click.echo(f"// {view.file}:{view.line}\n{view.text}\n")


@policy.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True))
@output.json_option
def validate(*, files: tuple[Path, ...], as_json: bool) -> None:
    """Check policy FILES or folders of them; without any, those of sluice.toml. Exit code 2 if something is wrong.

    Works without a gateway.
    """
    from gateway.core.policies import look_at
    from gateway.settings import load

    places = files or load().policy.folders
    found = [problem.details for problem in look_at(places)]
    shown = [{key: one[key] for key in ("file", "line", "column", "why")} for one in found]
    if as_json:
        output.emit(shown)
    for one in [] if as_json else shown:
        click.echo(_line({**one, "message": one["why"]}))
    if found:
        raise click.exceptions.Exit(2)
    if not as_json:
        output.note("No problems.")


@policy.command()
@click.option(
    "--as",
    "user",
    metavar="USER",
    shell_complete=complete.people,
    help="As whom; unset: you. Operators ask as anybody.",
)
@click.option(
    "--action",
    type=click.Choice(ACTIONS),
    metavar="ACTION",
    help="What would be done. Unset: create, with --session: read.",
)
@click.option("--session", metavar="REF", help="With which session.", shell_complete=complete.any_sessions)
@click.option("--recipe", metavar="NAME", help="Recipe that would be started.", shell_complete=complete.recipes)
@answers.parameter_option
@answers.resource_options
@click.option("--cluster", metavar="NAME", help="Cluster that it would run on.", shell_complete=complete.clusters)
@click.option(
    "--project",
    metavar="NAME",
    help="Project that it would belong to, or belongs to.",
    shell_complete=complete.projects,
)
@click.option(
    "--secret",
    metavar="NAME",
    help="With which secret: of the --project, or one's own.",
    shell_complete=complete.secrets,
)
@click.option(
    "--volume",
    metavar="NAME",
    help="With which volume: of the --project, or one's own.",
    shell_complete=complete.volumes,
)
@click.option("--class", "volume_class", metavar="CLASS", help="Class of a volume that is not there yet.")
@click.option("--path", metavar="PATH", help="Where it would lie below the root of its class.")
@click.option(
    "--on",
    metavar="NAME",
    help="With which user, project or token; for token.create: for whom.",
    shell_complete=complete.ruled,
)
@click.option("--change", "changes", multiple=True, metavar="WORD", help="What would be said: unix, admin, shares, …")
@click.option(
    "--member",
    metavar="USER",
    help="Who would be taken into the project, or let out.",
    shell_complete=complete.people,
)
@click.option("--role", type=click.Choice(ROLES), help="As what.")
@click.option("--days", type=float, metavar="N", help="How long the token would be good.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="What it would be good for.")
@click.option("--version", "version", metavar="VERSION", help="Version of the recipe; unset: the newest.")
@click.option("--origin", type=click.Choice(ORIGINS), help="As if it came from there.")
@click.option("--hour", type=click.IntRange(0, 23), help="As if it were this hour.")
@click.option("--weekday", type=click.IntRange(1, 7), help="As if it were this day; 1 is Monday.")
@output.json_option
def check(
    *,
    user: str | None,
    action: str | None,
    session: str | None,
    recipe: str | None,
    parameters: tuple[str, ...],
    cluster: str | None,
    project: str | None,
    version: str | None,
    changes: tuple[str, ...],
    scopes: tuple[str, ...],
    volume_class: str | None,
    path: str | None,
    as_json: bool,
    **more: Any,
) -> None:
    """Say whether something would be allowed, by which policy, and what would be; nothing is done.

    \b
    sluice policy check --as ann --recipe vllm --gpus a100:8 --time 12h
    sluice policy check --as ann --session demo --action stop
    sluice policy check --as ann --action set --secret hub --project physics
    sluice policy check --as max --action member.set --on physics --member ann --role manager
    sluice policy check --action token.create --days 90 --scope admin

    Exit code 4 if it would not be allowed.
    """
    from gateway.cli.client import connect
    from gateway.cli.errors import DENIED
    from gateway.model.policy import CheckRequest

    plain = ("origin", "hour", "weekday", "secret", "volume", "on", "member", "role", "days")
    given = {name: more.pop(name) for name in plain}
    asked: dict[str, Any] = {
        "action": action or ("read" if session else "create"),
        "user": user,
        "session": session,
        "project": project,
        "changes": changes,
        "scopes": scopes or None,
        **{name: value for name, value in given.items() if value is not None},
    }
    if volume_class is not None or path is not None:
        where = {"volume_class": volume_class, "path": path, "cluster": cluster}
        asked["place"] = {name: value for name, value in where.items() if value is not None}
    if recipe is not None:
        wanted = {"recipe": recipe, "project": project, "cluster": cluster, "version": version}
        asked["request"] = {
            **{key: value for key, value in wanted.items() if value is not None},
            "parameters": answers.parse(parameters),
            "resources": answers.resources(more),
        }
    with connect() as sluice:
        decision = sluice.policies.check(CheckRequest.model_validate(asked))
    if as_json:
        output.emit(decision)
    else:
        _say(decision)
    if not decision.allowed:
        raise click.exceptions.Exit(DENIED)


def _say(decision: "Decision") -> None:
    words = {
        "permit": "allowed, by",
        "forbid": "not allowed: forbidden by",
        "none": "not allowed: what would permit it is",
        "fault": "not allowed: this cannot be worked out:",
    }
    click.echo(f"{decision.action}: {words[decision.by]}")
    rows = [(reason.policy, reason.allows, reason.asked, reason.where) for reason in decision.reasons]
    output.table(("policy", "allows", "asked", "from"), rows)


def _line(problem: dict[str, Any]) -> str:
    return f"{problem['file']}:{problem['line']}:{problem['column']}: {problem['message']}"
