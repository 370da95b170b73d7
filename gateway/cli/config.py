"""`sluice config`: the settings in force, where they come from, and whether they can work."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import output
from gateway.errors import SettingsInvalid

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.settings import ClusterSettings, Settings


@click.group()
def config() -> None:
    """Show and check the settings: one sluice.toml, every key also as SLUICE_... in the environment."""


@config.command()
@output.json_option
def show(*, as_json: bool) -> None:
    """Print all settings with their values, defaults included; passwords are hidden."""
    from gateway.settings import load

    settings = load()
    values = settings.model_dump(mode="json", exclude_none=not as_json)
    if values.get("database_url"):
        values["database_url"] = _without_password(str(values["database_url"]))
    if as_json:
        output.emit({"source": str(settings.source) if settings.source else None, "settings": values})
        return
    click.echo(f"# {settings.source or 'no sluice.toml: defaults and environment'}")
    for line in toml(values):
        click.echo(line)


@config.command()
@output.json_option
def path(*, as_json: bool) -> None:
    """Print the path of the settings file in force; exit code 3 if there is none."""
    from gateway.errors import NotFound
    from gateway.settings import find

    found = find(os.environ)
    if found is None:
        raise NotFound(
            "there is no sluice.toml", hint="`sluice up` writes one; `sluice config show` prints the defaults."
        )
    if as_json:
        output.emit({"path": str(found.absolute())})
    else:
        click.echo(found.absolute())


@config.command()
@output.json_option
def schema(*, as_json: bool) -> None:
    """Print the JSON Schema of sluice.toml, for editors."""
    from gateway.settings import Settings

    del as_json  # it is JSON in any case
    made = Settings.model_json_schema()
    made["properties"].pop("source", None)
    output.emit(made)


@config.command()
@output.json_option
def check(*, as_json: bool) -> None:
    """Check the settings: unknown keys, wrong values, files that are missing or cannot be read. Exit code 2 then."""
    from gateway.settings import load

    settings = load()
    problems = list(_problems(settings))
    if as_json:
        source = str(settings.source) if settings.source else None
        output.emit({"source": source, "problems": problems, "clusters": sorted(settings.clusters)})
    for problem in [] if as_json else problems:
        click.echo(problem)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise SettingsInvalid(f"{count} in {settings.source or 'the settings'}")
    if not as_json:
        click.echo(
            f"{settings.source or 'No file, and the environment'}: fine. Clusters: {', '.join(settings.clusters)}"
        )


def _problems(settings: "Settings") -> Iterator[str]:
    if not settings.clusters:
        yield "clusters: none is configured, and there is no sbatch on the PATH (sluice cluster up makes one)"
    if settings.default_cluster is not None and settings.default_cluster not in settings.clusters:
        yield f"default_cluster: there is no cluster {settings.default_cluster!r}"
    for folder in settings.recipes.folders:
        if not folder.is_dir():
            yield f"recipes.folders: {folder} is not a folder"
    ports = [name for name in type(settings.serve).model_fields if name.endswith("_port")]
    values = [getattr(settings.serve, name) for name in ports]
    for name, value in zip(ports, values, strict=True):
        if values.count(value) > 1:
            yield f"serve.{name}: {value} is used twice"
    for name, cluster in settings.clusters.items():
        yield from (f"clusters.{name}.{problem}" for problem in _cluster_problems(cluster))


def _cluster_problems(cluster: "ClusterSettings") -> Iterator[str]:
    needed = {"rest": ("rest_url", "jwt_key_file"), "cli": ()}[cluster.backend]
    if cluster.files == "sftp":
        needed += ("ssh_host", "known_hosts_file", "user_ca_key_file")
    for key in needed:
        if getattr(cluster, key) is None:
            yield f"{key}: is needed with backend {cluster.backend!r} and files {cluster.files!r}"
    for key in ("jwt_key_file", "known_hosts_file", "user_ca_key_file"):
        file: Path | None = getattr(cluster, key)
        if file is not None and not os.access(file, os.R_OK):
            yield f"{key}: {file} {'cannot be read by you' if file.exists() else 'does not exist'}"


def _without_password(url: str) -> str:
    head, sign, tail = url.rpartition("@")
    scheme, slashes, who = head.partition("://")
    return f"{scheme}{slashes}{who.partition(':')[0]}:***@{tail}" if sign and ":" in who else url


def toml(values: Mapping[str, Any], place: tuple[str, ...] = ()) -> Iterator[str]:
    """A mapping of plain values as TOML, tables after their parents' keys."""
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    plain = {name: value for name, value in values.items() if name not in tables and value is not None}
    if place and (plain or not tables):
        yield ""
        yield f"[{'.'.join(_key(name) for name in place)}]"
    for name, value in plain.items():
        yield f"{_key(name)} = {json.dumps(value, ensure_ascii=False)}"
    for name, table in tables.items():
        yield from toml(table, (*place, name))


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else json.dumps(name)
