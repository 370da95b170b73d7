"""A recipe's parameters: what a user may answer, and how an answer is checked."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from gateway.errors import ParameterInvalid
from gateway.model.text import check_text, nearest

ParameterType = Literal["string", "integer", "number", "boolean", "enum", "path", "secret"]
Scalar = bool | int | float | Annotated[str, AfterValidator(check_text)]
Value = Scalar | list[Scalar]
"""What a parameter is worth; a list only where `multiple` is set."""

ParameterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]

_TEXTS = {"string", "path", "secret"}
_NUMBERS = {"integer", "number"}
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Parameter(BaseModel):
    """One question a recipe asks. Without a default it must be answered, unless `required: false`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: ParameterType = Field(
        description="`string`, `integer`, `number`, `boolean`, `enum`, `path` (a path on the cluster) or `secret`."
    )
    title: str = Field("", description="A few words for forms; the name is shown without it.")
    help: str = Field("", description="A sentence or two for the user who has to answer.")
    default: Value | None = Field(None, description="The value when no answer is given.")
    required: bool = Field(
        default=True,
        description="With `false` and no default the parameter may stay unanswered; expressions see `none`.",
    )
    multiple: bool = Field(
        default=False, description="The value is a list; every element is checked by the other fields."
    )
    choices: tuple[str, ...] = Field((), description="The allowed values of an `enum`.")
    pattern: str | None = Field(
        None, description="Regular expression that a text must match from its first to its last character."
    )
    minimum: float | None = Field(None, description="Smallest allowed number.")
    maximum: float | None = Field(None, description="Largest allowed number.")
    locked: bool = Field(default=False, description="Set by the site: the value is `default` and no answer is taken.")
    mount: bool = Field(
        default=False,
        description=(
            "For a `path`: the file or folder is bound read-only into the container at "
            "`/inputs/<parameter>/<last part of the path>`, and expressions see that path."
        ),
    )
    image_paths: tuple[str, ...] = Field(
        (),
        description="With `mount`: paths below these folders are taken from the image and are not mounted.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.type == "enum") != bool(self.choices):
            raise ValueError("`choices` goes with type `enum`, and an enum needs them")
        if self.pattern is not None:
            if self.type not in _TEXTS:
                raise ValueError(f"`pattern` is for texts, not for type `{self.type}`")
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"`pattern` is not a regular expression: {error}") from error
        if (self.minimum is not None or self.maximum is not None) and self.type not in _NUMBERS:
            raise ValueError(f"`minimum` and `maximum` are for numbers, not for type `{self.type}`")
        if (self.mount or self.image_paths) and self.type != "path":
            raise ValueError(f"`mount` and `image_paths` are for type `path`, not for `{self.type}`")
        if self.type == "secret" and (self.default is not None or self.multiple or self.locked):
            raise ValueError("a secret has no default, is never a list and cannot be locked")
        if self.locked and self.default is None:
            raise ValueError("a locked parameter needs its fixed value in `default`")
        if self.default is not None:
            self.coerce(self.default)
        return self

    def coerce(self, value: object) -> Value:
        """The checked value; texts from a command line become numbers and booleans. ValueError says what is allowed."""
        if not self.multiple:
            return self._one(value)
        items = value if isinstance(value, (list, tuple)) else [value]
        return [self._one(item) for item in items]

    def _one(self, value: object) -> Scalar:
        if isinstance(value, (list, tuple, dict)):
            raise ValueError(f"takes one value, not a {type(value).__name__}")  # noqa: TRY004 -- one kind of error
        match self.type:
            case "boolean":
                return _boolean(value)
            case "integer" | "number":
                return self._number(value)
            case "enum":
                return self._choice(value)
            case _:
                return self._text(value)

    def _number(self, value: object) -> Scalar:
        number = _integer(value) if self.type == "integer" else _real(value)
        if self.minimum is not None and number < self.minimum:
            raise ValueError(f"{number} is below the minimum {self.minimum:g}")
        if self.maximum is not None and number > self.maximum:
            raise ValueError(f"{number} is above the maximum {self.maximum:g}")
        return number

    def _choice(self, value: object) -> str:
        text = str(value)
        if text not in self.choices:
            near = nearest(text, self.choices)
            raise ValueError(
                f"{text!r} is not one of {', '.join(self.choices)}" + (f"; did you mean {near!r}?" if near else "")
            )
        return text

    def _text(self, value: object) -> str:
        if not isinstance(value, str):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or self.type != "string":
                raise ValueError(f"must be text, not {type(value).__name__}")
            value = str(value)
        check_text(value)
        shown = "the value" if self.type == "secret" else repr(value)
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            raise ValueError(f"{shown} does not match the pattern {self.pattern}")
        if self.type == "path":
            _check_path(value)
        return value


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    raise ValueError(f"{value!r} is not true or false")


def _integer(value: object) -> int:
    if isinstance(value, bool):
        raise ValueError("must be a whole number, not true or false")  # noqa: TRY004 -- one kind of error
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
        return int(value)
    raise ValueError(f"{value!r} is not a whole number")


def _real(value: object) -> int | float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number: int | float = value
    elif isinstance(value, str) and re.fullmatch(
        r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", value.strip().lower()
    ):
        number = float(value)
    else:
        raise ValueError(f"{value!r} is not a number")
    if number != number or number in (float("inf"), float("-inf")):  # noqa: PLR0124 -- NaN
        raise ValueError(f"{value!r} is not a finite number")
    return number


def _check_path(value: str) -> None:
    """A path on the cluster: absolute, or relative to the user's home; it names something."""
    last = value.rstrip("/").rpartition("/")[2]
    if last in ("", ".", "..", "~"):
        raise ValueError(f"{value!r} does not name a file or folder: end it with its name")


def reference(answer: object) -> str | None:
    """The named secret that an answer refers to: `{"secret": "hub"}`."""
    if not isinstance(answer, Mapping) or set(answer) != {"secret"} or not isinstance(answer["secret"], str):
        return None
    return answer["secret"]


def check_answers(parameters: Mapping[str, Parameter], answers: Mapping[str, object]) -> dict[str, Value | None]:
    """Every parameter's value from a user's answers and the defaults; ParameterInvalid names the parameter."""
    for name in answers:
        if name not in parameters:
            near = nearest(name, parameters)
            raise ParameterInvalid(
                f"there is no parameter {name!r}",
                hint=f"Did you mean {near!r}?" if near else f"Known: {', '.join(parameters) or 'none'}.",
                parameter=name,
            )
    return {name: _answer(name, parameter, answers.get(name)) for name, parameter in parameters.items()}


def _answer(name: str, parameter: Parameter, answer: object) -> Value | None:
    if answer is None:
        if parameter.default is None and parameter.required:
            raise ParameterInvalid(
                f"parameter {name!r} needs a value",
                hint=parameter.help or f"Give it: {name}=…",
                parameter=name,
            )
        return None if parameter.default is None else parameter.coerce(parameter.default)
    try:
        value = parameter.coerce(answer)
    except ValueError as error:
        raise ParameterInvalid(f"parameter {name!r}: {error}", hint=parameter.help, parameter=name) from None
    if parameter.locked and value != parameter.coerce(parameter.default):
        raise ParameterInvalid(
            f"parameter {name!r} is locked by the site to {parameter.default!r}",
            hint="Leave it out.",
            parameter=name,
        )
    return value


def json_schema_of(parameter: Parameter) -> dict[str, Any]:
    """JSON Schema of an answer to this parameter; `format: path` and `writeOnly` mark paths and secrets for forms."""
    one: dict[str, Any]
    match parameter.type:
        case "integer" | "number" | "boolean":
            one = {"type": parameter.type}
        case "enum":
            one = {"type": "string", "enum": list(parameter.choices)}
        case _:
            one = {"type": "string"}
    if parameter.type == "path":
        one["format"] = "path"
    if parameter.type == "secret":
        one |= {"writeOnly": True, "format": "password"}
        if parameter.pattern is not None:
            one["pattern"] = f"^(?:{parameter.pattern})$"
        named = {"type": "object", "properties": {"secret": {"type": "string"}}, "required": ["secret"]}
        one = {"anyOf": [one, named | {"additionalProperties": False}], "writeOnly": True}
    elif parameter.pattern is not None:
        one["pattern"] = f"^(?:{parameter.pattern})$"
    whole = parameter.type == "integer"
    for key, bound in (("minimum", parameter.minimum), ("maximum", parameter.maximum)):
        if bound is not None:
            one[key] = int(bound) if whole and bound.is_integer() else bound
    schema: dict[str, Any] = {"type": "array", "items": one} if parameter.multiple else one
    if parameter.title:
        schema["title"] = parameter.title
    if parameter.help:
        schema["description"] = parameter.help
    if parameter.default is not None:
        schema["default"] = parameter.default
    if parameter.locked:
        schema |= {"const": parameter.default, "readOnly": True}
    return schema
