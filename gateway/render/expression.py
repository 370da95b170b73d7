"""Jinja2 expressions in recipes: sandboxed, strict, and worked out to values rather than to text.

A text that is one `{{ … }}` gives the value of the expression (a number, a list, none); any other text is filled in
and gives text. Values of parameters are data to an expression and are never read as templates themselves.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, Undefined, meta, nodes
from jinja2.environment import TemplateExpression
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.model.text import nearest


def _finalize(value: object) -> object:
    """What a value becomes inside a longer text; none and lists only mean something when they stand alone."""
    if isinstance(value, Undefined):
        return value
    if value is None or isinstance(value, (list, tuple, dict)):
        raise ValueError(
            f"{'none' if value is None else f'a {type(value).__name__}'} stands inside a text: "
            "write the whole argument as one {{ … }}"
        )
    return as_text(value)


_environment = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, finalize=_finalize, autoescape=False, keep_trailing_newline=True
)
_environment.globals.clear()
_values = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
_values.globals.clear()


def as_text(value: object) -> str:
    """A single value as a program gets it: `true` and `false` for booleans, `0.5` and `4` for numbers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError(f"a {type(value).__name__} is not text")


def evaluate(text: str, context: Mapping[str, object]) -> Any:
    """The value of a recipe's text in a context; ValueError says what is wrong with it."""
    try:
        compiled = _compile(text)
        if isinstance(compiled, Template):
            return compiled.render(context)
        value = compiled(**context)
        if isinstance(value, Undefined):
            return str(value)  # raises, and says the name
        return value  # noqa: TRY300 -- one way out for each form of text
    except TemplateError as error:
        raise ValueError(error.message or str(error)) from error
    except (ArithmeticError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def arguments(text: str, context: Mapping[str, object]) -> list[str]:
    """The arguments that one element of `command` stands for: one; none for a none; each element of a list."""
    value = evaluate(text, context)
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [as_text(item) for item in value]
    return [as_text(value)]


def check(text: str, known: Iterable[str]) -> None:
    """ValueError if the text is not a template, or uses a name that it will not be given."""
    names = set(known)
    try:
        unknown = meta.find_undeclared_variables(_environment.parse(text)) - names
        _compile(text)
    except TemplateError as error:
        raise ValueError(error.message or str(error)) from error
    for name in sorted(unknown):
        near = nearest(name, names)
        hint = f"did you mean {near!r}?" if near else f"known: {', '.join(sorted(names)) or 'none'}"
        raise ValueError(f"{name!r} is not a parameter that expressions can use; {hint}")


@cache
def _compile(text: str) -> Template | TemplateExpression:
    if (inner := _single(text)) is not None:
        return _values.compile_expression(inner, undefined_to_none=False)
    return _environment.from_string(text)


def _single(text: str) -> str | None:
    """The inside of a text that is one `{{ … }}` and nothing else."""
    if not (text.startswith("{{") and text.endswith("}}")):
        return None
    match _environment.parse(text).body:
        case [nodes.Output(nodes=[only])] if not isinstance(only, nodes.TemplateData):
            return text[2:-2].removeprefix("-").removesuffix("-")
        case _:
            return None
