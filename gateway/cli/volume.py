"""`sluice volume`: named directories on a cluster, for sessions to mount."""

import click

from gateway.cli import complete, output

_project = click.option("--project", metavar="NAME", help="A project's; unset: your own.")


@click.group()
def volume() -> None:
    """Volumes: named directories of yours and of your projects, which sessions mount by name."""


@volume.command()
@click.argument("name")
@click.option("--class", "volume_class", metavar="CLASS", default="home", show_default=True, help="Class of the place.")
@click.option("--path", metavar="PATH", help="Path below the root of its class; unset: NAME.")
@click.option("--cluster", metavar="NAME", help="Cluster that it lies on.", shell_complete=complete.clusters)
@_project
@output.json_option
def add(
    *, name: str, volume_class: str, path: str | None, cluster: str | None, project: str | None, as_json: bool
) -> None:
    """Name a directory NAME; the first session that may write there makes it.

    \b
    sluice volume add corpus --path data/corpus
    sluice volume add runs --class scratch
    sluice volume add shared --class project --project physics
    sluice launch jupyter --volume corpus:/data:ro --volume runs

    A name that there is already is another place from then on. Volumes of a project are named by its managers.
    """
    from pydantic import ValidationError

    from gateway.cli.client import connect
    from gateway.model.volume import VolumeRequest

    try:
        request = VolumeRequest(volume_class=volume_class, path=path, cluster=cluster)
    except ValidationError as error:
        raise click.UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    with connect() as sluice:
        view = sluice.volumes.set(name, request, project=project)
    if as_json:
        output.emit(view)
    else:
        whose = f" of project {view.project}" if view.project else ""
        output.note(f"Volume {view.name}{whose} is {view.path}, class {view.volume_class}, on {view.cluster}.")


@volume.command("list")
@output.json_option
def list_(*, as_json: bool) -> None:
    """List the volumes that you may know of: yours, and those of your projects."""
    from gateway.cli.client import connect

    with connect() as sluice:
        found = sluice.volumes.list()
    if as_json:
        output.emit(found)
        return
    rows = [(view.name, view.project or "you", view.cluster, view.volume_class, view.path) for view in found]
    output.table(("name", "of", "cluster", "class", "path"), rows, empty="There are no volumes.")


@volume.command()
@click.argument("name")
@_project
def remove(*, name: str, project: str | None) -> None:
    """Forget a volume. What is in the directory stays."""
    from gateway.cli.client import connect

    with connect() as sluice:
        sluice.volumes.remove(name, project=project)
    output.note(f"Volume {name} is gone; what is in its directory is still there.")
