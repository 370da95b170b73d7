"""What a parameter takes, and what it says to the rest."""

from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from gateway.errors import ParameterInvalid
from gateway.model.parameter import Parameter, check_answers, json_schema_of


def parameter(**fields: Any) -> Parameter:
    return Parameter.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "given", "value"),
    [
        ({"type": "integer"}, "7", 7),
        ({"type": "integer"}, 7.0, 7),
        ({"type": "number"}, "2.5e3", 2500.0),
        ({"type": "number"}, 3, 3),
        ({"type": "boolean"}, "Yes", True),
        ({"type": "boolean"}, "off", False),
        ({"type": "enum", "choices": ["a", "b"]}, "b", "b"),
        ({"type": "string"}, "$(rm -rf /)\n'\"", "$(rm -rf /)\n'\""),
        ({"type": "string"}, 5, "5"),
        ({"type": "string", "multiple": True}, "one", ["one"]),
        ({"type": "integer", "multiple": True}, ["1", 2], [1, 2]),
        ({"type": "path"}, "~/a b,c", "~/a b,c"),
    ],
)
def test_values_that_are_taken(fields: dict[str, Any], given: object, value: object) -> None:
    assert parameter(**fields).coerce(given) == value


@pytest.mark.parametrize(
    ("fields", "given", "said"),
    [
        ({"type": "integer"}, "7.5", "not a whole number"),
        ({"type": "integer"}, True, "not true or false"),
        ({"type": "integer", "minimum": 3}, 2, "below the minimum 3"),
        ({"type": "number", "maximum": 1}, 1.5, "above the maximum 1"),
        ({"type": "number"}, float("nan"), "finite"),
        ({"type": "number"}, "inf", "not a number"),
        ({"type": "boolean"}, "maybe", "not true or false"),
        ({"type": "enum", "choices": ["float16", "auto"]}, "float61", "did you mean 'float16'"),
        ({"type": "string", "pattern": "[a-z]+"}, "abc\n", "does not match"),
        ({"type": "string"}, "a\0b", "NUL"),
        ({"type": "string"}, ["a"], "one value"),
        ({"type": "string"}, {"a": 1}, "one value"),
        ({"type": "path"}, "/", "does not name"),
        ({"type": "path"}, "/data/..", "does not name"),
        ({"type": "path"}, 5, "must be text"),
        ({"type": "string", "multiple": True}, ["ok", "\0"], "NUL"),
    ],
)
def test_values_that_are_refused(fields: dict[str, Any], given: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parameter(**fields).coerce(given)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"type": "enum"}, "an enum needs them"),
        ({"type": "string", "choices": ["a"]}, "goes with type"),
        ({"type": "string", "minimum": 1}, "for numbers"),
        ({"type": "integer", "pattern": "x"}, "for texts"),
        ({"type": "string", "pattern": "("}, "not a regular expression"),
        ({"type": "string", "mount": True}, "for type `path`"),
        ({"type": "secret", "default": "x"}, "no default"),
        ({"type": "string", "locked": True}, "fixed value"),
        ({"type": "integer", "default": "many"}, "whole number"),
        ({"type": "integer", "minimum": 2, "default": 1}, "below the minimum"),
        ({"type": "text"}, "Input should be"),
    ],
)
def test_definitions_that_make_no_sense(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        parameter(**fields)


def test_answers_are_filled_up_with_defaults_and_none() -> None:
    known = {
        "threads": parameter(type="integer", default=2),
        "alias": parameter(type="string", required=False),
        "model": parameter(type="path"),
    }
    assert check_answers(known, {"model": "m"}) == {"threads": 2, "alias": None, "model": "m"}
    with pytest.raises(ParameterInvalid, match="'model' needs a value"):
        check_answers(known, {})
    with pytest.raises(ParameterInvalid, match="no parameter 'thread'") as caught:
        check_answers(known, {"model": "m", "thread": 1})
    assert "threads" in caught.value.hint


def test_a_locked_parameter_takes_its_own_value_only() -> None:
    known = {"threads": parameter(type="integer", default=2, locked=True)}
    assert check_answers(known, {"threads": "2"}) == {"threads": 2}
    with pytest.raises(ParameterInvalid, match="locked by the site to 2"):
        check_answers(known, {"threads": 3})


def test_a_refused_secret_is_not_repeated() -> None:
    with pytest.raises(ParameterInvalid) as caught:
        check_answers({"token": parameter(type="secret", pattern="hf_.*")}, {"token": "very secret"})
    assert "very secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "good", "bad"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 4}, 4, 5),
        ({"type": "enum", "choices": ["a"]}, "a", "b"),
        ({"type": "string", "pattern": "a|b"}, "b", "ab"),
        ({"type": "number", "multiple": True}, [1.5], 1.5),
        ({"type": "boolean", "default": True, "locked": True}, True, False),
    ],
)
def test_json_schema_says_the_same(fields: dict[str, Any], good: object, bad: object) -> None:
    schema = json_schema_of(parameter(**fields))
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, schema)
