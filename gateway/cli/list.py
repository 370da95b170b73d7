"""`sluice list`: your sessions."""

import click

from gateway.cli import answers, complete, output
from gateway.cli.options import PHASES


@click.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that have ended.")
@click.option("--phase", type=click.Choice(PHASES), help="Only in this phase.")
@click.option("--recipe", metavar="NAME", help="Only of this recipe.", shell_complete=complete.recipes)
@click.option("--cluster", metavar="NAME", help="Only on this cluster.", shell_complete=complete.clusters)
@click.option("--project", metavar="NAME", help="Only of this project.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Only with this label; several: all.")
@output.json_option
def list_(
    *,
    everything: bool,
    phase: str | None,
    recipe: str | None,
    cluster: str | None,
    project: str | None,
    labels: tuple[str, ...],
    as_json: bool,
) -> None:
    """List your live sessions, newest first. With --json: the array that the API gives."""
    from gateway.cli.client import connect
    from gateway.cli.progress import describe

    ended = None if everything or phase in ("succeeded", "failed", "stopped") else False
    with connect() as sluice:
        found = [
            session.view
            for session in sluice.sessions.list(
                ended=ended, phase=phase, recipe=recipe, cluster=cluster, project=project, labels=answers.labels(labels)
            )
        ]
    if as_json:
        output.emit(found)
        return
    rows = [
        (
            view.name,
            view.recipe,
            output.phase(view.phase),
            describe(view).removeprefix(view.phase).lstrip(". "),
            view.job.job_id,
            view.job.nodes,
            output.age(view.created_at),
        )
        for view in found
    ]
    more = "" if everything else " Those that have ended: sluice list --all"
    columns = ("name", "recipe", "phase", "what", "job", "nodes", "age")
    output.table(columns, rows, empty=f"There are no {'' if everything else 'live '}sessions.{more}")
