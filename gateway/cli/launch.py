"""`sluice launch`: start a session from a recipe, and see it become ready."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import answers, complete, output
from gateway.cli.options import timeout_option

if TYPE_CHECKING:
    from gateway.sdk import Session, Sluice
    from gateway.sdk.following import Until
    from gateway.sdk.wire import SessionOptions


@click.command()
@click.argument("recipe", shell_complete=complete.recipes)
@answers.parameter_option
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME=SECRET",
    help="Answer a parameter of type secret with the named secret SECRET (`sluice secret set`).",
)
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    metavar="NAME[:PATH][:ro]",
    help="Mount the volume NAME (`sluice volume list`) at PATH; unset: /volumes/NAME.",
)
@answers.resource_options
@click.option("--cluster", metavar="NAME", help="Cluster to run on.", shell_complete=complete.clusters)
@click.option("--name", metavar="NAME", help="Name of the session; unset: made from the recipe's.")
@click.option("--project", metavar="NAME", help="Project that it belongs to.")
@click.option("--version", "version", metavar="VERSION", help="Version of the recipe; unset: the newest.")
@click.option(
    "--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label of your own, any number of times."
)
@answers.replicas_option
@click.option(
    "--renew/--no-renew",
    default=None,
    help="Whether it goes on in another job before its time limit. Without either: as its recipe says.",
)
@click.option(
    "--wait/--no-wait",
    default=None,
    help="Wait until it is ready (a batch session: has ended), or not at all. "
    "Without either: until it is ready (a batch session: runs).",
)
@timeout_option
@click.option("--dry-run", is_flag=True, help="Start nothing; print exactly what would be sent to Slurm.")
@click.option("--idempotency-key", metavar="TEXT", help="The same key and request give the same session, once.")
@output.json_option
def launch(
    *,
    recipe: str,
    parameters: tuple[str, ...],
    secrets: tuple[str, ...],
    volumes: tuple[str, ...],
    cluster: str | None,
    name: str | None,
    project: str | None,
    version: str | None,
    labels: tuple[str, ...],
    replicas: str | None,
    renew: bool | None,
    wait: bool | None,
    timeout: float | None,
    dry_run: bool,
    idempotency_key: str | None,
    as_json: bool,
    **resources: Any,
) -> None:
    """Start a session from RECIPE.

    \b
    sluice launch llama-cpp
    sluice launch vllm -p model=/models/qwen --gpus a100:2 --time 8h
    sluice launch python-batch -p script=@train.py --wait

    `-p name=@file` takes the value from a text file of this machine. Ctrl-C while waiting leaves the session running.
    """
    from gateway.cli import progress
    from gateway.cli.client import connect

    options: SessionOptions = {
        "parameters": {**answers.parse(parameters), **answers.references(secrets)} or None,
        "resources": answers.resources(resources) or None,
        "name": name,
        "version": version,
        "project": project,
        "cluster": cluster,
        "labels": answers.labels(labels) or None,
        "volumes": answers.volumes(volumes) or None,
        "replicas": answers.replicas(replicas) if replicas is not None else None,
        "renew": renew,
    }
    with connect() as sluice:
        if dry_run:
            _show_script(sluice, recipe, options, as_json=as_json)
            return
        session = sluice.sessions.create(recipe, idempotency_key=idempotency_key, **options)
        if wait is not False:
            until: Until = "ended" if wait and session.view.kind == "batch" else "ready"
            if not as_json:
                output.note(f"Session {session.name} ({session.id}) was accepted.")
            session = progress.wait(session, until, timeout, quiet=as_json)
        if as_json:
            output.emit(session.view)
        else:
            _say_how_to_use(session, sluice.url)


def _show_script(sluice: "Sluice", recipe: str, options: "SessionOptions", *, as_json: bool) -> None:
    script = sluice.sessions.dry_run(recipe, **options)
    if as_json:
        output.emit(script)
    else:
        click.echo(script.script, nl=not script.script.endswith("\n"))


def _say_how_to_use(session: "Session", url: str) -> None:
    view = session.view
    click.echo(f"Session {output.styled(view.name, bold=True)} {output.is_now(view.phase)}.")
    for line in how_to_use(view.model_dump(), url, session.url):
        click.echo(line)


def how_to_use(view: Mapping[str, Any], url: str, session_url: str) -> list[str]:
    """What can be done next with a session, as it is now."""
    name, model, kind = view["name"], view["model"], view["kind"]
    if view["ended"]:
        return [f"  its log     sluice logs {name}"]
    lines = []
    if view["phase"] == "ready" and model:
        body = f'{{"model":"{model}","messages":[{{"role":"user","content":"Hello"}}]}}'
        lines += [
            f"  chat        sluice chat {name} 'Hello'",
            '  shell       eval "$(sluice env)"',
            f'  curl        curl {url}/v1/chat/completions -H "Authorization: Bearer $SLUICE_TOKEN" \\',
            f"                -H 'Content-Type: application/json' -d '{body}'",
            "  Python      from gateway.sdk import Sluice",
            f"              client = Sluice().sessions.get('{name}').openai()",
        ]
    if view["phase"] == "ready":
        lines.append(f"  address     {session_url}")
    if view["phase"] != "ready" and kind == "service":
        lines.append(f"  wait        sluice wait {name}")
    if kind == "batch":
        lines.append(f"  wait        sluice wait {name} --for ended")
    return [*lines, f"  log         sluice logs -f {name}", f"  stop        sluice stop {name}"]
