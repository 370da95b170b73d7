"""`sluice policy`: who may do what, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import answers, complete, output

if TYPE_CHECKING:
    from gateway.model.policy import Decision

ACTIONS = ("create", "stop", "delete", "read", "logs", "script", "call", "open", "enter")
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
    rows = [(view.id, view.effect, view.allows, f"{Path(view.file).name}:{view.line}") for view in page.items]
    output.table(("policy", "effect", "allows", "from"), rows)
    for problem in page.problems:
        output.note(f"Broken, so the set before stays in force: {_line(problem.model_dump())}")


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
@click.option("--as", "user", metavar="USER", help="As whom; unset: you. Operators ask as anybody.")
@click.option("--action", type=click.Choice(ACTIONS), help="What would be done. Unset: create, with --session: read.")
@click.option("--session", metavar="REF", help="With which session.")
@click.option("--recipe", metavar="NAME", help="Recipe that would be started.", shell_complete=complete.recipes)
@answers.parameter_option
@answers.resource_options
@click.option("--cluster", metavar="NAME", help="Cluster that it would run on.", shell_complete=complete.clusters)
@click.option("--project", metavar="NAME", help="Project that it would belong to.")
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
    origin: str | None,
    hour: int | None,
    weekday: int | None,
    as_json: bool,
    **resources: Any,
) -> None:
    """Say whether something would be allowed, by which policy, and what would be; nothing is done.

    \b
    sluice policy check --as ann --recipe vllm --gpus a100:8 --time 12h
    sluice policy check --as ann --session demo --action stop

    Exit code 4 if it would not be allowed.
    """
    from gateway.cli.client import connect
    from gateway.cli.errors import DENIED
    from gateway.model.policy import CheckRequest

    asked: dict[str, Any] = {
        "action": action or ("read" if session else "create"),
        "user": user,
        "session": session,
        "origin": origin,
        "hour": hour,
        "weekday": weekday,
    }
    if recipe is not None:
        wanted = {"recipe": recipe, "project": project, "cluster": cluster, "version": version}
        asked["request"] = {
            **{key: value for key, value in wanted.items() if value is not None},
            "parameters": answers.parse(parameters),
            "resources": answers.resources(resources),
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
