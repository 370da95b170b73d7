"""The reference pages, made from the code: `python -m gateway.cli.reference` writes docs/reference/*.md."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel

from gateway import errors
from gateway.cli.errors import MEANINGS, exit_code
from gateway.cli.main import SECTIONS, main
from gateway.model import recipe
from gateway.settings import ENV_PREFIX, ENV_SEPARATOR, ClusterSettings, Settings

FOLDER = Path(__file__).parents[2] / "docs/reference"
_MADE = "<!-- Made by `python -m gateway.cli.reference`: change the code, not this page. -->"


def pages() -> dict[str, str]:
    """Every page by its file name."""
    from gateway.server.app import routes

    openapi = routes().openapi()
    made = {
        "cli.md": _cli(),
        "settings.md": _settings(),
        "recipe.md": _recipe(),
        "errors.md": _errors(),
        "metrics.md": _metrics(),
        "http-api.md": _http_api(openapi),
    }
    document = {"openapi.json": f"{json.dumps(openapi, indent=1, ensure_ascii=False)}\n"}
    return {name: "\n".join([*lines, ""]) for name, lines in made.items()} | document


# ------------------------------------------------------------------ commands


def _cli() -> list[str]:
    lines = _head("Commands", "Every command of `sluice`. Most take `--json`: results on stdout, errors on stderr.")
    lines += ["## Exit codes", ""]
    lines += _table(("code", "meaning"), ((f"`{code}`", meaning) for code, meaning in MEANINGS.items()))
    lines += ["Which error gives which code: [errors](errors.md).", ""]
    commands = dict(main.walk())
    for title, entries in SECTIONS.items():
        lines += [f"## {title}", ""]
        for path, command in commands.items():
            if path.split(" ")[0] in entries:
                lines += _command(path, command)
    return lines


def _command(path: str, command: click.Command) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(click.Context(command, info_name=f"sluice {path}")))
    lines = [f"### `sluice {path}`", "", f"    sluice {path} {usage}", "", *_prose(command.help or "")]
    options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    rows = [(f"`{_option(option)}`", _one_line(option.help or "") + _default(option)) for option in options]
    return lines + _table(("option", "what"), rows)


def _prose(text: str) -> list[str]:
    r"""A docstring of click's as Markdown: what stands under `\b` is kept as it is."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        kept = paragraph.split("\n")
        if kept[0].strip() == "\b":
            lines += [f"    {line}" for line in kept[1:]]
        else:
            lines += [line.strip() for line in kept]
        lines.append("")
    return lines


def _option(option: click.Option) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    number = isinstance(option.type, (click.IntRange, click.types.IntParamType))
    value = option.metavar or "|".join(map(str, _choices(option))) or ("N" if number else option.type.name.upper())
    return f"{names} {value}"


def _choices(option: click.Option) -> Sequence[Any]:
    return option.type.choices if isinstance(option.type, click.Choice) else ()


def _default(option: click.Option) -> str:
    return f" Default: `{option.default}`." if option.show_default and option.default is not None else ""


# ------------------------------------------------------------------ settings


def _settings() -> list[str]:
    lines = _head(
        "Settings",
        "One file, `sluice.toml`: the first of `$SLUICE_CONFIG`, `./sluice.toml`, `~/.config/sluice/sluice.toml`, "
        "`/etc/sluice/sluice.toml`, and the one that `sluice up` wrote. Every key can also be set in the environment, "
        "where it wins. An unknown key is an error. `sluice config show` prints what is in force, `sluice config "
        "check` looks whether it can work, `sluice config schema` is for editors.",
    )
    return [*lines, *_section(Settings, "")]


def _section(model: type[BaseModel], place: str) -> Iterator[str]:
    plain: list[tuple[str, ...]] = []
    nested: list[tuple[str, type[BaseModel], str]] = []
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        path = f"{place}.{name}" if place else name
        inner = ClusterSettings if name == "clusters" else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            nested.append((f"{path}.NAME" if name == "clusters" else path, inner, field.description or ""))
            continue
        variable = ENV_PREFIX + path.upper().replace(".", ENV_SEPARATOR)
        default = _value(name, field.default)
        plain.append((f"`{name}`", _type(field.annotation), default, field.description or "", f"`{variable}`"))
    yield from _table(("key", "type", "default", "what", "variable"), plain)
    for path, inner, description in nested:
        yield from (f"## `[{path}]`", "", description, "")
        yield from _section(inner, path)


def _value(name: str, default: object) -> str:
    if name == "state_dir":
        return "`/var/lib/sluice` for root, else `~/.local/state/sluice`"
    return "" if default is None or default == () else f"`{default}`"


def _type(annotation: object) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{word}`" for word in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return _type(next(part for part in get_args(annotation) if part is not type(None)))
    if get_origin(annotation) is tuple:
        return f"list of {_type(get_args(annotation)[0])}"
    words = {str: "text", int: "integer", float: "number", bool: "boolean", Path: "path"}
    return next((word for kind, word in words.items() if annotation is kind), str(annotation))


# ------------------------------------------------------------------ recipes and errors


def _recipe() -> list[str]:
    lines = _head(
        "Recipe fields",
        "What a recipe file may say; [writing recipes](../guides/writing-recipes.md) shows how it is used. "
        "*Expression*: Jinja2 over the parameters. `sluice recipe schema` prints the JSON Schema.",
    )
    rows = ((f"`{field.field}`", field.type.replace("|", "or"), field.help) for field in recipe.describe())
    return lines + _table(("field", "type", "what"), rows)


def _errors() -> list[str]:
    from gateway.web.errors import status_of

    lines = _head(
        "Errors",
        "Every error that Sluice raises on purpose. Over HTTP it is `application/problem+json` with this `code`; the "
        "SDK raises the class of the same code; commands end with the exit code. *Again*: the same call may succeed "
        "later.",
    )
    lines += ["```text", *_tree(), "```", ""]
    rows = (
        (f"`{kind.code}`", f"`{kind.__name__}`", status_of(kind), exit_code(kind), "yes" if kind.retryable else "")
        for kind in errors.tree()
    )
    return lines + _table(("code", "class", "HTTP status", "exit code", "again"), rows)


def _tree() -> list[str]:
    """The drawing in the docstring of `gateway.errors`."""
    lines = (errors.__doc__ or "").splitlines()
    first = next(number for number, line in enumerate(lines) if "SluiceError" in line)
    last = max(number for number, line in enumerate(lines) if "──" in line)
    drawn = lines[first : last + 1]
    margin = min(len(line) - len(line.lstrip()) for line in drawn if line.strip())
    return [line[margin:] for line in drawn]


def _http_api(openapi: dict[str, Any]) -> list[str]:
    lines = _head(
        "HTTP API",
        "A running server shows these pages with forms at `/api/v1/docs`; [the OpenAPI document](openapi.json) is for "
        "generators. Models answer under `/v1` as OpenAI's API does: [the data plane](../concepts/data-plane.md).",
    )
    lines += [*openapi["info"]["description"].strip().splitlines(), ""]
    for tag in openapi["tags"]:
        lines += [f"## {tag['name'].capitalize()}", "", tag["description"], ""]
        for path, methods in openapi["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    lines += _operation(f"{method.upper()} {path}", operation)
    return lines


def _operation(call: str, operation: dict[str, Any]) -> list[str]:
    lines = [f"### {operation['summary']}", "", f"    {call}", "", *operation.get("description", "").splitlines(), ""]
    parameters = (
        (f"`{given['name']}`", given["in"], given.get("description", "")) for given in operation.get("parameters", ())
    )
    lines += _table(("parameter", "in", "what"), parameters)
    answers = ((f"`{status}`", answer.get("description", "")) for status, answer in operation["responses"].items())
    return lines + _table(("answer", "what"), answers)


# ------------------------------------------------------------------ metrics


def _metrics() -> list[str]:
    from gateway.web.metrics import HTTP, PROXY, SLURM
    from monitoring.collect import DESCRIBED

    lines = _head(
        "Metrics",
        "For Prometheus, with the token. `process_…` are the usual figures of a process: CPU time, memory, open files. "
        "How they are scraped: [monitoring](../concepts/monitoring.md).",
    )
    parts = (
        (
            "Sessions and clusters",
            "At `/monitoring/metrics`: from the database, the same whichever process is asked.",
            DESCRIBED,
        ),
        (
            "What is asked of Slurm",
            (
                "Of the server that asks, since it began: at `/metrics` (or `/api/v1/metrics`) of the server, and at "
                "`/monitoring/metrics` of the all-in-one gateway. Each is one to three RPCs to slurmctld."
            ),
            SLURM,
        ),
        (
            "Requests",
            (
                "Of the process that is asked: at `/metrics` on every port, at `/api/v1/metrics`, and at "
                "`/monitoring/metrics`."
            ),
            HTTP,
        ),
        ("The data plane", "Of the client service, and of the all-in-one gateway: at `/metrics`.", PROXY),
    )
    for title, where, metrics in parts:
        lines += [f"## {title}", "", where, ""]
        rows = (
            (
                f"`{metric.name}{'_total' if metric.kind == 'counter' else ''}`",
                metric.kind,
                ", ".join(f"`{label}`" for label in metric.labels),
                metric.help,
            )
            for metric in metrics
        )
        lines += _table(("metric", "kind", "labels", "meaning"), rows)
    return lines


# ------------------------------------------------------------------ Markdown


def _head(title: str, about: str) -> list[str]:
    return [_MADE, "", f"# {title}", "", about, ""]


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    cells = [[_one_line(str(value)).replace("|", "\\|") for value in row] for row in rows]
    if not cells:
        return []
    lines = [columns, ["---"] * len(columns), *cells]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
