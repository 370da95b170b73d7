"""`/api/v1/recipes`: the catalogue, the form of a recipe's parameters, and dry runs."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.core import admission, sessions
from gateway.model.api import (
    RecipeDetail,
    RecipePage,
    RecipeProblem,
    RecipeView,
    ScriptView,
    SessionRequest,
    View,
)
from gateway.model.recipe import Recipe, json_schema
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import problems

router = APIRouter(prefix="/recipes", tags=["recipes"])

Version = Query(None, description="Version of the recipe; unset: the newest.", examples=["1.0"])


class RenderRequest(View):
    """Answers to try out; nothing is started."""

    parameters: dict[str, Any] = Field(default_factory=dict)
    resources: dict[str, Any] = Field(default_factory=dict)
    cluster: str | None = None


@router.get("", operation_id="listRecipes", summary="List the recipes")
async def list_recipes(gateway: Gw, caller: Caller) -> RecipePage:
    """Every recipe in its newest version. Broken files do not hide the others; they stand in `problems`."""
    del caller
    catalogue = gateway.catalogue
    found = [
        RecipeProblem(file=str(problem.details.get("file", "")), message=str(problem)) for problem in catalogue.problems
    ]
    return RecipePage(items=[_view(recipe) for recipe in catalogue.list()], problems=found)


@router.get("/schema", operation_id="getRecipeSchema", summary="JSON Schema of recipe files")
async def recipe_schema(caller: Caller) -> dict[str, Any]:
    """For editors and checks of recipe files."""
    del caller
    return json_schema()


@router.get("/{name}", operation_id="getRecipe", summary="Get a recipe", responses=problems(404, 422))
async def get_recipe(gateway: Gw, caller: Caller, name: str, version: str | None = Version) -> RecipeDetail:
    """One recipe; a redirect is followed."""
    del caller
    recipe = gateway.catalogue.get(name, version)
    return RecipeDetail(
        **_view(recipe).model_dump(),
        versions=list(gateway.catalogue.versions(recipe.name)),
        recipe=recipe.model_dump(mode="json", exclude_unset=True),
    )


@router.get(
    "/{name}/schema",
    operation_id="getParametersSchema",
    summary="JSON Schema of a recipe's parameters",
    responses=problems(404, 422),
)
async def parameters(
    gateway: Gw,
    caller: Caller,
    name: str,
    version: str | None = Version,
    project: Annotated[str | None, Query(description="Project that it would belong to; unset: yours.")] = None,
    cluster: Annotated[str | None, Query(description="Cluster that it would run on; unset: the default one.")] = None,
) -> dict[str, Any]:
    """What you may answer, for forms.

    What the site's limits lock or bound for you is in it, with the policy's name in the description; bounds of
    resources are in `$defs.resources`.
    """
    recipe = gateway.catalogue.get(name, version)
    return await admission.answers_schema(gateway, caller, recipe, project, cluster)


@router.post(
    "/{name}/render",
    operation_id="renderRecipe",
    summary="Show the script that would be sent to Slurm",
    responses=problems(404, 409, 422),
)
async def render(
    gateway: Gw, caller: Caller, name: str, answers: RenderRequest, version: str | None = Version
) -> ScriptView:
    """A dry run: the same value that a session would send, not sent. Values of secrets are never in it."""
    request = SessionRequest(recipe=name, version=version, **answers.model_dump())
    return sessions.script_view(*await sessions.dry_run(gateway, caller, request))


def _view(recipe: Recipe) -> RecipeView:
    return RecipeView(
        name=recipe.name,
        version=recipe.version,
        title=recipe.title,
        description=recipe.description,
        kind=recipe.kind,
        image=recipe.image or "",
        deprecated=recipe.deprecated is not None,
        labels=recipe.labels,
    )
