"""`/api/v1/secrets`: named secrets of users and projects. Values go in and never come out."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from gateway.core import secrets
from gateway.model.api import Page
from gateway.model.secret import PATTERN, SecretRequest, SecretView
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import problems

router = APIRouter(prefix="/secrets", tags=["identity"])

Name = Annotated[str, Path(pattern=PATTERN, description="Name of the secret.")]
Project = Annotated[str | None, Query(description="The project that it is of; unset: your own.")]


@router.get("", operation_id="listSecrets", summary="List the secrets that you may use")
async def list_secrets(gateway: Gw, caller: Caller) -> Page[SecretView]:
    """Your own, and those of projects that you are at least a member of; never their values."""
    return Page[SecretView](items=await secrets.KEEPER.list(gateway, caller))


@router.get("/{name}", operation_id="getSecret", summary="Get a secret, without its value", responses=problems(404))
async def get(gateway: Gw, caller: Caller, name: Name, project: Project = None) -> SecretView:
    """Whose it is, and when it got its value."""
    return await secrets.KEEPER.get(gateway, caller, name, project)


@router.put("/{name}", operation_id="setSecret", summary="Set a secret", responses=problems(404, 422))
async def put(gateway: Gw, caller: Caller, name: Name, request: SecretRequest, project: Project = None) -> SecretView:
    """Kept encrypted and never shown again; in the place of the value before. A project's is set by its managers."""
    return await secrets.put(gateway, caller, name, request, project)


@router.delete(
    "/{name}",
    operation_id="removeSecret",
    summary="Remove a secret",
    status_code=204,
    response_class=Response,
    responses=problems(404),
)
async def remove(gateway: Gw, caller: Caller, name: Name, project: Project = None) -> None:
    """Sessions that were given it keep it until they end."""
    await secrets.KEEPER.remove(gateway, caller, name, project)
