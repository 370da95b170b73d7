"""The secrets of a recipe: which named ones it wants, and which value each variable gets. Never part of a plan."""

from collections.abc import Mapping

from gateway.errors import ParameterInvalid
from gateway.model.parameter import check_answers, reference
from gateway.model.recipe import Recipe

NAMED = "secret:"


def wanted(recipe: Recipe, answers: Mapping[str, object]) -> dict[str, bool]:
    """The named secrets of a recipe with these answers, and whether each is needed.

    An answer refers to one as `{"secret": NAME}`. ParameterInvalid if the parameter is not of type secret.
    """
    found: dict[str, bool] = {}
    for name, answer in answers.items():
        if (secret := reference(answer)) is None:
            continue
        parameter = recipe.parameters.get(name)
        if parameter is not None and parameter.type != "secret":
            raise ParameterInvalid(
                f"parameter {name!r} is of type {parameter.type}: only secrets are told by reference", parameter=name
            )
        found[secret] = True
    for use in recipe.secrets.values():
        if use.secret is not None:
            found[use.secret] = found.get(use.secret, False) or use.required
    return found


def fill(recipe: Recipe, answers: Mapping[str, object], named: Mapping[str, str]) -> dict[str, object]:
    """The answers with the values that they refer to."""
    filled = dict(answers)
    for name, answer in answers.items():
        secret = reference(answer)
        if secret is not None and name in recipe.parameters:
            filled[name] = named[secret]
    return filled


def secret_values(recipe: Recipe, answers: Mapping[str, object], named: Mapping[str, str]) -> dict[str, str]:
    """The secret environment of a recipe with these (filled) answers and named secrets, by variable."""
    values = check_answers(recipe.parameters, answers)
    found: dict[str, str] = {}
    for variable, use in recipe.secrets.items():
        value = values[use.parameter] if use.parameter is not None else named.get(use.secret or "")
        if isinstance(value, str):
            found[variable] = value
    return found


def sources(recipe: Recipe, values: Mapping[str, object]) -> dict[str, str]:
    """Where each variable's value comes from: its parameter, if that has one, or the named secret."""
    return {
        variable: use.parameter if use.parameter is not None else f"{NAMED}{use.secret}"
        for variable, use in recipe.secrets.items()
        if use.parameter is None or values[use.parameter] is not None
    }


def named_sources(recipe: Recipe, answers: Mapping[str, object], values: Mapping[str, str]) -> dict[str, str]:
    """The same for variables that have a value, with the references of the answers as they were given."""
    found: dict[str, str] = {}
    for variable, use in recipe.secrets.items():
        if variable in values:
            secret = use.secret if use.parameter is None else reference(answers.get(use.parameter))
            found[variable] = f"{NAMED}{secret}" if secret is not None else str(use.parameter)
    return found
