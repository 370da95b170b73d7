"""`sluice image`: build, list, import and add the images of a cluster. Works without a gateway, by the settings."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.output import age, console, emit, fields, interactive, json_option, local, note, span, table
from gateway.errors import Invalid

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gateway.core.context import Cluster
    from gateway.model.image import Image
    from gateway.model.plan import PinnedImage
    from gateway.settings import Settings
    from gateway.store.database import Database

_QUIET_SECONDS = 10
_MB = 1e6

_cluster = click.option("--cluster", "cluster_name", metavar="NAME", help="Which cluster; unset: the default one.")


class BuildProgress:
    """The last line of a build and the time it took so far: rewritten on a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown = 0.0
        self._line = ""

    def __call__(self, line: str) -> None:
        self._line = " ".join(line.split())
        now = time.monotonic()
        if not interactive(err=True) and now - self._shown > _QUIET_SECONDS:
            note(f"[{now - self._began:5.1f} s] {self._line}")
            self._shown = now

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """While this is open, the line is on the screen and its time goes on."""
        if not interactive(err=True):
            yield
            return
        from rich.live import Live

        with Live(get_renderable=self._render, console=console(err=True), transient=True, refresh_per_second=4):
            yield

    def _render(self) -> "RenderableType":
        from rich.text import Text

        took = span(time.monotonic() - self._began)
        return Text(f"{took.rjust(7)}  {self._line}", no_wrap=True, overflow="ellipsis")


@click.group()
def image() -> None:
    """Build, import and list images. Works without a gateway: as the operator, on the cluster's build host.

    An image is an Apptainer SIF. Sessions pin it by its digest, so a new build changes only sessions that start later.
    """


@image.command()
@click.argument("name")
@_cluster
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="An argument of the definition file.")
@click.option("--variant", metavar="WORD", help="The same as --arg VARIANT=WORD: cpu or cuda for pytorch and vllm.")
@click.option(
    "--compression",
    type=click.Choice(["zstd", "gzip"]),
    default="zstd",
    show_default=True,
    help="gzip for nodes with old kernels.",
)
@click.option("--force", is_flag=True, help="Build again what is up to date, for newer packages.")
@json_option
def build(
    *,
    name: str,
    cluster_name: str | None,
    arguments: tuple[str, ...],
    variant: str | None,
    compression: str,
    force: bool,
    as_json: bool,
) -> None:
    """Build the image NAME, a shipped one or a definition file (./NAME.def), and what it is built on."""
    given = _pairs(arguments) | ({"VARIANT": variant} if variant else {})
    progress = BuildProgress()
    began = time.monotonic()

    async def work() -> "Image":
        from gateway.core import images

        async with _opened(_settings(), cluster_name) as (db, cluster), progress.shown():
            return await images.build(
                db, cluster, name, arguments=given, compression=compression, force=force, progress=progress
            )

    built = asyncio.run(work())
    if as_json:
        emit(built)
        return
    note(f"{built.name} is ready after {time.monotonic() - began:.0f} s ({built.size / _MB:.0f} MB).")
    _show([built], current=built)


@image.command("list")
@_cluster
@json_option
def list_(*, cluster_name: str | None, as_json: bool) -> None:
    """List the images of a cluster, the one that new sessions get first, and shipped ones that are not built yet."""

    async def work() -> "Sequence[Image]":
        from gateway.core import images

        async with _opened(_settings(), cluster_name) as (db, cluster):
            await images.adopt(db, cluster)
            return await images.every(db, cluster.name)

    from gateway.core.definitions import shipped

    found = asyncio.run(work())
    if as_json:
        emit(found)
        return
    newest = {(each.cluster, each.name): each for each in reversed(found)}
    rows = [
        (
            each.name,
            "in use" if newest[each.cluster, each.name] == each else "older",
            each.sha256[:12],
            f"{each.size / _MB:.0f} MB",
            age(each.built_at),
            each.path,
        )
        for each in found
    ]
    missing = sorted(set(shipped()) - {each.name for each in found})
    rows += [(name, "not built", "", "", "", "") for name in missing]
    table(("name", "state", "digest", "size", "age", "path"), rows)


@image.command()
@click.argument("name")
@_cluster
@json_option
def show(*, name: str, cluster_name: str | None, as_json: bool) -> None:
    """Show the image that NAME means now, and its older digests."""

    async def work() -> "Sequence[Image]":
        from gateway.core import images

        async with _opened(_settings(), cluster_name) as (db, cluster):
            await images.adopt(db, cluster)
            await images.find(db, cluster, name)  # says it better than an empty list
            return await images.every(db, cluster.name, name)

    found = asyncio.run(work())
    if as_json:
        emit({**found[0].model_dump(mode="json"), "older": [each.model_dump(mode="json") for each in found[1:]]})
        return
    _show(found, current=found[0])


@image.command()
@click.argument("name")
@click.argument("path")
@_cluster
@json_option
def add(*, name: str, path: str, cluster_name: str | None, as_json: bool) -> None:
    """Give the SIF at PATH on the cluster the NAME. The file stays where it is; its digest is taken now."""

    async def work() -> "Image":
        from datetime import UTC, datetime

        from gateway.core import images

        async with _opened(_settings(), cluster_name) as (db, cluster):
            return await images.add(db, cluster, name, path, now=datetime.now(UTC))

    added = asyncio.run(work())
    if as_json:
        emit(added)
        return
    _show([added], current=added)


@image.command("import")
@click.argument("dockerfile", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The definition file to write; its name is the image's.  [default: FOLDER.def in the Dockerfile's folder]",
)
@click.option("--overwrite", is_flag=True, help="Replace the definition file if it is there.")
@json_option
def import_(*, dockerfile: Path, output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Convert a DOCKERFILE to a definition file, and say what could not be converted.

    Build it then with `sluice image build ./NAME.def`. Its base comes from a container registry, which the build host
    must reach; change the lines Bootstrap and From to build on an image that you have.
    """
    from gateway.core.dockerfile import convert

    folder = dockerfile.resolve().parent
    target = output or folder / f"{folder.name.lower()}.def"
    if target.exists() and not overwrite:
        raise Invalid(f"{target} is there already", hint="--overwrite replaces it, --output names another file.")
    converted = convert(dockerfile)
    target.write_text(converted.definition)
    if as_json:
        emit({"definition": str(target), "notes": [{"line": line, "note": said} for line, said in converted.notes]})
        return
    click.echo(str(target))
    for line, said in converted.notes:
        note(f"{dockerfile}:{line}: {said}")
    note(f"Look it over, then: sluice image build {_shown(target)}")


async def ensure_image(
    settings: "Settings", cluster_name: str, image_name: str, progress: Callable[[str], None]
) -> "PinnedImage":
    """The image on the cluster, built now if it is not there; `progress` gets lines of text. For `sluice up`."""
    from gateway.core import images

    async with _opened(settings, cluster_name) as (db, cluster):
        return (await images.ensure(db, cluster, image_name, progress=progress)).pinned


# ------------------------------------------------------------------ steps


def _settings() -> "Settings":
    from gateway.settings import load

    return load()


@asynccontextmanager
async def _opened(settings: "Settings", cluster_name: str | None) -> "AsyncIterator[tuple[Database, Cluster]]":
    from gateway.core.context import Cluster
    from gateway.slurm import connect
    from gateway.store.database import Database

    name, chosen = settings.cluster(cluster_name)
    backend = connect(chosen, name=name)
    cluster = Cluster(
        name=name,
        settings=chosen,
        scheduler=backend.scheduler,
        files=backend.files,
        build_shell=backend.build_shell,
    )
    db = Database(settings.database)
    try:
        await asyncio.to_thread(db.open)
        yield db, cluster
    finally:
        await backend.close()
        await asyncio.to_thread(db.close)


def _pairs(arguments: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{argument!r} is not NAME=VALUE", param_hint="--arg")
        pairs[name] = value
    return pairs


def _show(found: "Sequence[Image]", *, current: "Image") -> None:
    pairs: Mapping[str, Any] = {
        "Name": current.name,
        "Cluster": current.cluster,
        "Digest": f"sha256:{current.sha256}",
        "Path": current.path,
        "Size": f"{current.size / _MB:.1f} MB",
        "Built": local(current.built_at),
        "Older": "\n".join(f"sha256:{each.sha256[:12]}  {local(each.built_at)}" for each in found if each != current),
    }
    fields(pairs.items())


def _shown(path: Path) -> str:
    here = Path.cwd()
    return f"./{path.relative_to(here)}" if path.is_relative_to(here) else str(path)
