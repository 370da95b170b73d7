"""Answers and resources from a command line: the options that `launch` and `recipe render` share."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

RESOURCE_OPTIONS: Mapping[str, tuple[str, str]] = {
    "partition": ("NAME", "Slurm partition."),
    "time": ("TIME", "Time limit: 2h, 30m, 1-00:00:00."),
    "nodes": ("N", "Nodes."),
    "cpus": ("N", "CPUs a task."),
    "memory": ("SIZE", "Memory a node: 16G, 512M."),
    "gpus": ("[TYPE:]N", "GPUs a node: 2, a100:2."),
    "account": ("NAME", "Slurm account."),
    "qos": ("NAME", "Slurm QOS."),
    "constraint": ("FEATURES", "Node features."),
}


def parameter_option(function: F) -> F:
    """`-p NAME=VALUE`, any number of times; read it with `parse`."""
    return click.option(
        "-p",
        "--parameter",
        "parameters",
        multiple=True,
        metavar="NAME=VALUE",
        help="Answer a parameter of the recipe; NAME=@FILE takes the text of a file of this machine (@@ is a plain @). "
        "Give it again for every element of a list.",
    )(function)


def resource_options(function: F) -> F:
    """The options that override a recipe's resources; read them with `resources`."""
    for name, (metavar, text) in reversed(list(RESOURCE_OPTIONS.items())):
        function = click.option(f"--{name}", name, metavar=metavar, help=text)(function)
    return function


def replicas_option(function: F) -> F:
    """`--replicas N` or `MIN..MAX`; read it with `replicas`."""
    return click.option(
        "--replicas",
        metavar="N|MIN..MAX",
        help="How many jobs serve it: 2, or 0..4 for as many as there is to do for. Unset: as the recipe says.",
    )(function)


def replicas(text: str) -> dict[str, int | None]:
    """`{"min": ..., "max": ...}` from `2` or `0..4`."""
    least, dots, most = text.partition("..")
    if not least.isdigit() or (dots and not most.isdigit()):
        raise click.BadParameter(f"{text!r} is neither a number nor MIN..MAX", param_hint="--replicas")
    return {"min": int(least), "max": int(most) if dots else None}


def parse(pairs: Iterable[str]) -> dict[str, object]:
    """Answers by name; one that is given again is a list. BadParameter without a `=` or for an unreadable file."""
    answers: dict[str, object] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--parameter")
        value = _value(name, value)
        before = answers.get(name)
        answers[name] = value if before is None else [*(before if isinstance(before, list) else [before]), value]
    return answers


def references(pairs: Iterable[str]) -> dict[str, object]:
    """Answers that refer to named secrets, from `--secret NAME=SECRET`."""
    found: dict[str, object] = {}
    for pair in pairs:
        name, sign, secret = pair.partition("=")
        if not sign or not name or not secret:  # what was given instead may be a value: it is not said again
            raise click.BadParameter("it is NAME=SECRET, both of them names", param_hint="--secret")
        found[name] = {"secret": secret}
    return found


def volumes(words: Iterable[str]) -> list[dict[str, object]]:
    """Volumes from `--volume NAME[:TARGET][:ro]`."""
    found: list[dict[str, object]] = []
    for word in words:
        name, *rest = word.split(":")
        modes = [rest.pop()] if rest and rest[-1] in {"ro", "rw"} else []
        if not name or len(rest) > 1 or (rest and not rest[0].startswith("/")):
            raise click.BadParameter(f"{word!r} is not NAME, NAME:/PATH or NAME:/PATH:ro", param_hint="--volume")
        use: dict[str, object] = {"name": name, "writable": modes != ["ro"]}
        found.append({**use, "target": rest[0]} if rest else use)
    return found


def labels(pairs: Iterable[str]) -> dict[str, str]:
    """Labels by name, from `--label NAME=VALUE`."""
    found = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--label")
        found[name] = value
    return found


def _value(name: str, text: str) -> str:
    if not text.startswith("@"):
        return text
    if text.startswith("@@"):
        return text[1:]
    try:
        return Path(text[1:]).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise click.BadParameter(f"{name}: cannot read {text[1:]}: {why}", param_hint="--parameter") from None


def resources(options: Mapping[str, object]) -> dict[str, object]:
    """The resources among a command's options that were given."""
    return {name: options[name] for name in RESOURCE_OPTIONS if options.get(name) is not None}
