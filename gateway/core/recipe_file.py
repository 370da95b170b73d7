"""Reads one recipe file; what is wrong with it is said with line, column, field, and what would be right."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gateway.errors import Invalid, RecipeInvalid
from gateway.model.plan import PinnedImage
from gateway.model.recipe import Recipe, fields_at
from gateway.model.text import is_expression, nearest
from gateway.render.expression import check
from gateway.render.plan import make_plan

MAX_BYTES = 1 << 20
_SOME_IMAGE = PinnedImage(name="image", path="/image.sif", sha256="0" * 64)

Place = tuple[str | int, ...]
Positions = Mapping[Place, tuple[int, int]]


class RecipeFile(NamedTuple):
    """A file as it was read. `name` is what it defines or seems to define; without a recipe there are problems."""

    path: Path
    name: str
    recipe: Recipe | None
    problems: tuple[RecipeInvalid, ...]


def read(path: Path) -> RecipeFile:
    """Read and check one file; never raises for what is in it."""
    name = path.stem
    try:
        positions, value = _parse(path)
    except OSError as error:
        return RecipeFile(path, name, None, (_problem(path, error.strerror or str(error)),))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return RecipeFile(path, name, None, (_problem(path, _yaml_words(error), position=position),))
    except (ValueError, YAMLError) as error:
        return RecipeFile(path, name, None, (_problem(path, str(error)),))
    if not isinstance(value, dict):
        return RecipeFile(path, name, None, (_problem(path, "a recipe is a mapping of fields to values"),))
    if isinstance(value.get("name"), str):
        name = value["name"]
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        return RecipeFile(path, name, None, tuple(_translated(path, error, positions)))
    problems = tuple(_template_problems(path, recipe, positions)) or tuple(_trial_problems(path, recipe, positions))
    return RecipeFile(path, name, recipe, problems)


def _parse(path: Path) -> tuple[Positions, Any]:
    """Where everything stands (lines and columns from 1), and the values."""
    data = path.read_bytes()
    if len(data) > MAX_BYTES:
        raise ValueError(f"the file has {len(data)} bytes; a recipe has at most {MAX_BYTES}")
    text = data.decode()
    node = YAML(typ="safe", pure=True).compose(io.StringIO(text))
    positions = dict(_positions(node, ())) if node is not None else {}
    return positions, YAML(typ="safe", pure=True).load(io.StringIO(text))


def _positions(node: Node, place: Place) -> Iterator[tuple[Place, tuple[int, int]]]:
    if not place:
        yield place, _at(node)
    children: Sequence[tuple[str | int, Node, Node]] = ()
    if isinstance(node, MappingNode):
        children = [(key.value, key, value) for key, value in node.value if isinstance(key, ScalarNode)]
    elif isinstance(node, SequenceNode):
        children = [(index, item, item) for index, item in enumerate(node.value)]
    for name, mark, value in children:
        yield (*place, name), _at(mark)
        yield from _positions(value, (*place, name))


def _at(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _yaml_words(error: MarkedYAMLError) -> str:
    words = " ".join(part for part in (error.context, error.problem) if part)
    return re.sub(r"\s+", " ", words) or "this is not YAML"


def _problem(
    path: Path, text: str, *, hint: str = "", field: str = "", position: tuple[int, int] = (1, 1)
) -> RecipeInvalid:
    line, column = position
    where = f"{path}:{line}:{column}: " + (f"{field}: " if field else "")
    return RecipeInvalid(where + text, hint=hint, file=str(path), line=line, column=column, field=field)


def _translated(path: Path, error: ValidationError, positions: Positions) -> Iterator[RecipeInvalid]:
    """One problem a place, in the order of the file."""
    found: dict[Place, RecipeInvalid] = {}
    for details in error.errors():
        place = _known_place(details["loc"], positions)
        if place in found and details["type"] != "missing":
            continue  # another branch of the same union
        text, hint = _words(details, place)
        found[details["loc"] if details["type"] == "missing" else place] = _problem(
            path, text, hint=hint, field=_field(place), position=positions.get(place, (1, 1))
        )
    yield from sorted(found.values(), key=lambda problem: (problem.details["line"], problem.details["column"]))


def _known_place(loc: Place, positions: Positions) -> Place:
    """The longest part of an error's place that stands in the file: pydantic adds names of union branches."""
    place = loc
    while place and place not in positions:
        place = place[:-1]
    return place


def _field(place: Place) -> str:
    text = ""
    for word in place:
        text += f"[{word}]" if isinstance(word, int) else f".{word}" if text else str(word)
    return text


def _words(details: ErrorDetails, place: Place) -> tuple[str, str]:
    """What is wrong, and what would be right."""
    given, context = details.get("input"), details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            known = fields_at(place[:-1])
            near = nearest(str(place[-1]), known)
            allowed = f"Allowed here: {', '.join(known)}."
            return f"there is no field {str(place[-1])!r}", f"Did you mean {near!r}? {allowed}" if near else allowed
        case "missing":
            return f"the field {str(details['loc'][-1])!r} is missing", f"Allowed here: {', '.join(fields_at(place))}."
        case "literal_error" | "enum":
            allowed = str(context.get("expected", ""))
            near = nearest(str(given), re.findall(r"'([^']*)'", allowed))
            return f"{given!r} is not allowed", f"Allowed: {allowed}." + (f" Did you mean {near!r}?" if near else "")
        case "string_type":
            return f"must be text, not {type(given).__name__}", 'Put it in quotes: "' + str(given) + '"'
        case "string_pattern_mismatch":
            return f"{given!r} is not allowed", f"It must match {context.get('pattern', '')}"
        case "model_type" | "dict_type" | "model_attributes_type":
            allowed = ", ".join(fields_at(place))
            return f"must be a mapping, not {type(given).__name__}", f"Allowed here: {allowed}." if allowed else ""
        case _:
            return details["msg"].removeprefix("Value error, "), ""


def _template_problems(path: Path, recipe: Recipe, positions: Positions) -> Iterator[RecipeInvalid]:
    """Expressions that cannot be worked out whatever the answers are."""
    known = {name for name, parameter in recipe.parameters.items() if parameter.type != "secret"}
    secret = recipe.parameters.keys() - known
    for place, text in _templates(recipe):
        names = known if place[0] == "resources" else known | {"resources"}
        try:
            check(text, names | secret)
            check(text, names)
        except ValueError as error:
            used = next((name for name in sorted(secret) if f"'{name}'" in str(error)), "")
            words = f"{used!r} is secret: only `secrets` can give it to the program" if used else str(error)
            at = positions.get(_known_place(place, positions), (1, 1))
            yield _problem(path, words, field=_field(place), position=at)
    for name in sorted(known) if recipe.script else ():
        if re.search(r"\{\{\s*" + name + r"\b", recipe.script or ""):
            hint = f'Write "$PARAM_{name.upper()}".'
            at = positions.get(("script",), (1, 1))
            yield _problem(path, f"a script takes no expressions ({name})", hint=hint, field="script", position=at)


def _trial_problems(path: Path, recipe: Recipe, positions: Positions) -> Iterator[RecipeInvalid]:
    """Expressions that fail with the default answers, where nothing else has to be answered."""
    asks = any(parameter.required and parameter.default is None for parameter in recipe.parameters.values())
    if recipe.redirect is not None or asks:
        return
    try:
        make_plan(recipe, {}, image=_SOME_IMAGE)
    except Invalid as error:
        field = str(error.details.get("field") or error.details.get("resource") or "")
        place = tuple(int(word[1:-1]) if word[0] == "[" else word for word in re.findall(r"\[\d+\]|[^.\[\]]+", field))
        text = error.message.rpartition(f"{field}: ")[2] if field else error.message
        at = positions.get(_known_place(place, positions), (1, 1))
        yield _problem(path, f"{text} (with the default answers)", field=field, position=at)


def _templates(recipe: Recipe) -> Iterator[tuple[Place, str]]:
    for index, item in enumerate(recipe.command or ()):
        yield ("command", index), item
    for name, text in recipe.env.items():
        yield ("env", name), text
    for index, mount in enumerate(recipe.mounts):
        if mount.source is not None:
            yield ("mounts", index, "source"), mount.source
        if mount.volume is not None:
            yield ("mounts", index, "volume"), mount.volume
    if recipe.service is not None and recipe.service.model is not None:
        yield ("service", "model"), recipe.service.model
    yield from _request_templates(recipe.resources, ("resources",))
    yield from _request_templates(recipe.resources.gpus, ("resources", "gpus"))


def _request_templates(request: BaseModel, place: Place) -> Iterator[tuple[Place, str]]:
    for name in type(request).model_fields:
        value = getattr(request, name)
        if isinstance(value, str) and is_expression(value):
            yield (*place, name), value
