"""`sluice recipe`: the catalogue at hand, without a gateway: list, show, check and render recipes."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli import answers
from gateway.cli.output import emit, fields, json_option, note, table
from gateway.errors import RecipeInvalid

if TYPE_CHECKING:
    from gateway.core.recipes import Catalogue
    from gateway.model.plan import ClusterDefaults
    from gateway.model.recipe import Recipe
    from gateway.render.job import JobTarget
    from gateway.settings import Settings

_SAMPLE_ID = "00000000000000000000000000"
_SAMPLE_CA = "-----BEGIN CERTIFICATE-----\n(the gateway's CA)\n-----END CERTIFICATE-----\n"

_folders = click.option(
    "--folder",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder of recipes over the shipped ones and those of sluice.toml.",
)
_version = click.option("--version", "version", metavar="VERSION", help="A version; without it the newest.")


@click.group()
def recipe() -> None:
    """List, show, check and render recipes. Works without a gateway, on the recipes of this machine."""


@recipe.command("list")
@_folders
@json_option
def list_(folders: tuple[Path, ...], as_json: bool) -> None:
    """List the recipes."""
    catalogue = _catalogue(folders)
    recipes = catalogue.list()
    if as_json:
        emit([_summary(catalogue, item) for item in recipes])
    else:
        rows = (
            (item.name, item.version, item.kind, item.title, "deprecated" if item.deprecated else "")
            for item in recipes
        )
        table(("name", "version", "kind", "title", ""), rows, empty="There are no recipes.")
    if catalogue.problems:
        note("Some files are broken and left out: sluice recipe lint")


@recipe.command()
@click.argument("name")
@_version
@_folders
@json_option
def show(name: str, version: str | None, folders: tuple[Path, ...], as_json: bool) -> None:
    """Show a recipe and its parameters."""
    catalogue = _catalogue(folders)
    found = catalogue.get(name, version)
    if as_json:
        emit(
            {
                **found.model_dump(mode="json"),
                "path": str(catalogue.path(name, version)),
                "versions": catalogue.versions(found.name),
            }
        )
        return
    fields(
        [
            ("Recipe", f"{found.name} {found.version}"),
            ("Title", found.title),
            ("Description", found.description),
            ("Kind", found.kind),
            ("Image", found.image),
            ("Deprecated", found.deprecated),
            ("File", catalogue.path(name, version)),
            ("Versions", ", ".join(catalogue.versions(found.name))),
            ("Resources", _resources_line(found)),
        ]
    )
    if found.parameters:
        click.echo()
        rows = ((key, _type(found, key), _default(found, key), found.parameters[key].help) for key in found.parameters)
        table(("parameter", "type", "default", "help"), rows)


@recipe.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True))
@_folders
@json_option
def lint(files: tuple[Path, ...], folders: tuple[Path, ...], as_json: bool) -> None:
    """Check recipe FILES or folders of them; without any, the whole catalogue. Exit code 2 if something is wrong."""
    problems = _lint(files) if files else list(_catalogue(folders).problems)
    if as_json:
        emit([{"message": problem.message, "hint": problem.hint, **problem.details} for problem in problems])
    for problem in [] if as_json else problems:
        click.echo(problem.message)
        if problem.hint:
            click.echo(f"    {problem.hint}")
    if problems:
        note(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
        raise click.exceptions.Exit(2)
    if not as_json:
        note("No problems.")


@recipe.command()
@click.argument("name")
@answers.parameter_option
@answers.resource_options
@_version
@click.option("--cluster", metavar="NAME", help="Take folders and defaults of this cluster from sluice.toml.")
@click.option("--image", "image_path", metavar="PATH", help="Path of the image on the cluster.")
@_folders
@json_option
def render(
    name: str,
    version: str | None,
    parameters: tuple[str, ...],
    cluster: str | None,
    image_path: str | None,
    folders: tuple[Path, ...],
    as_json: bool,
    **options: object,
) -> None:
    """Print the job that a recipe becomes.

    Without a gateway the session's id, the image's digest and the CA are stand-ins. `sluice launch --dry-run` asks the
    gateway, and prints what it would send to the last byte.
    """
    from gateway.model.plan import PinnedImage
    from gateway.render.job import render as render_job
    from gateway.render.plan import make_plan

    found = _catalogue(folders).get(name, version)
    settings = _settings()
    target, defaults, images = _site(settings, cluster)
    plan = make_plan(
        found,
        answers.parse(parameters),
        image=PinnedImage(name=found.image or "", path=image_path or f"{images}/{found.image}.sif", sha256="0" * 64),
        resources=answers.resources(options),
        defaults=defaults,
    )
    script = render_job(plan, target)
    if as_json:
        emit({"plan": plan, "options": script.options, "script": script.text})
    else:
        click.echo(script.text, nl=False)


@recipe.command()
@click.argument("name", required=False)
@_version
@_folders
@json_option
def schema(name: str | None, version: str | None, folders: tuple[Path, ...], as_json: bool) -> None:
    """Print the JSON Schema of recipe files; with NAME, that of the recipe's parameters."""
    from gateway.model.recipe import json_schema, parameters_schema

    del as_json  # it is JSON in any case
    emit(json_schema() if name is None else parameters_schema(_catalogue(folders).get(name, version)))


def _settings() -> "Settings":
    from gateway.settings import load

    return load()


def _catalogue(folders: tuple[Path, ...]) -> "Catalogue":
    from gateway.core.recipes import open_catalogue

    return open_catalogue((*_settings().recipes.folders, *folders))


def _lint(files: tuple[Path, ...]) -> list[RecipeInvalid]:
    from gateway.core.recipe_file import read
    from gateway.core.recipes import Catalogue

    problems: list[RecipeInvalid] = []
    for path in files:
        problems += Catalogue([path]).problems if path.is_dir() else read(path).problems
    return problems


def _site(settings: "Settings", cluster: str | None) -> "tuple[JobTarget, ClusterDefaults, str]":
    """Where the job would go, the cluster's defaults, and its folder of images."""
    from gateway.model.plan import ClusterDefaults
    from gateway.render.job import JobTarget

    if cluster is None and not settings.clusters:
        return JobTarget(session_id=_SAMPLE_ID, client_ca=_SAMPLE_CA), ClusterDefaults(), "/images"
    _, site = settings.cluster(cluster)
    target = JobTarget(
        session_id=_SAMPLE_ID,
        session_root=site.session_root,
        client_ca=_SAMPLE_CA,
        comment_field=site.comment_field,
    )
    defaults = ClusterDefaults(partition=site.default_partition, account=site.account, qos=site.qos)
    return target, defaults, site.image_dir.replace("~", "/home/USER", 1)


def _summary(catalogue: "Catalogue", item: "Recipe") -> dict[str, object]:
    keys = ("name", "version", "title", "description", "kind", "image", "deprecated", "labels")
    return {**{key: getattr(item, key) for key in keys}, "path": str(catalogue.path(item.name))}


def _resources_line(item: "Recipe") -> str:
    asked = item.resources.model_dump(exclude_defaults=True)
    gpus = asked.pop("gpus", {})
    asked |= {f"gpus.{key}": value for key, value in gpus.items()}
    return ", ".join(f"{key} {value}" for key, value in asked.items())


def _type(item: "Recipe", name: str) -> str:
    parameter = item.parameters[name]
    word = "|".join(parameter.choices) if parameter.choices else parameter.type
    bounds = [parameter.minimum, parameter.maximum]
    if any(bound is not None for bound in bounds):
        word += " " + "..".join("" if bound is None else f"{bound:g}" for bound in bounds)
    return f"{word}, several" if parameter.multiple else word


def _default(item: "Recipe", name: str) -> str:
    parameter = item.parameters[name]
    if parameter.default is None:
        return "(needed)" if parameter.required else ""
    text = str(parameter.default).lower() if isinstance(parameter.default, bool) else str(parameter.default)
    return f"{text} (locked)" if parameter.locked else text
