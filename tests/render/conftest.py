"""Recipes, plans and targets for tests of rendering."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gateway.model.plan import PinnedImage, Plan
from gateway.model.recipe import Recipe
from gateway.render.job import JobTarget
from gateway.render.plan import make_plan

MakeRecipe = Callable[..., Recipe]
MakePlan = Callable[..., Plan]


@pytest.fixture(scope="session")
def image() -> PinnedImage:
    return PinnedImage(name="base", path="/images/base.sif", sha256="1" * 64)


@pytest.fixture(scope="session")
def make_recipe() -> MakeRecipe:
    """A small batch recipe with whatever fields the test gives."""

    def make(**fields: Any) -> Recipe:
        base: dict[str, Any] = {"name": "probe", "version": "1", "kind": "batch", "image": "base"}
        if "script" not in fields:
            base["command"] = ["program"]
        return Recipe.model_validate(base | fields)

    return make


@pytest.fixture(scope="session")
def plan_of(image: PinnedImage) -> MakePlan:
    def plan(recipe: Recipe, answers: Mapping[str, object] | None = None, **more: Any) -> Plan:
        return make_plan(recipe, answers or {}, image=image, **more)

    return plan


@pytest.fixture(scope="session")
def target() -> JobTarget:
    return JobTarget(session_id="01JD0ZQ8X5T4Y7R3M2N6P9K1VB", attempt=2, client_ca="(CA)\n")
