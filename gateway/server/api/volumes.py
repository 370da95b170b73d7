"""`/api/v1/volumes`: named directories of users and projects, for sessions to mount."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from gateway.core import volumes
from gateway.model.api import Page
from gateway.model.volume import PATTERN, VolumeRequest, VolumeView
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import problems

router = APIRouter(prefix="/volumes", tags=["volumes"])

Name = Annotated[str, Path(pattern=PATTERN, description="Name of the volume.")]
Project = Annotated[str | None, Query(description="The project that it is of; unset: your own.")]


@router.get("", operation_id="listVolumes", summary="List the volumes that you may know of")
async def list_volumes(gateway: Gw, caller: Caller) -> Page[VolumeView]:
    """Your own, and those of your projects. Members of a project mount its volumes."""
    return Page[VolumeView](items=await volumes.KEEPER.list(gateway, caller))


@router.get("/{name}", operation_id="getVolume", summary="Get a volume", responses=problems(404))
async def get(gateway: Gw, caller: Caller, name: Name, project: Project = None) -> VolumeView:
    """Whose it is, and where it lies."""
    return await volumes.KEEPER.get(gateway, caller, name, project)


@router.put("/{name}", operation_id="setVolume", summary="Name a directory", responses=problems(404, 422))
async def put(gateway: Gw, caller: Caller, name: Name, request: VolumeRequest, project: Project = None) -> VolumeView:
    """In the place of what had the name. A project's volumes are named by its managers.

    The directory is made by the first session that may write there, as the person whose session it is.
    """
    return await volumes.put(gateway, caller, name, request, project)


@router.delete(
    "/{name}",
    operation_id="removeVolume",
    summary="Forget a volume",
    status_code=204,
    response_class=Response,
    responses=problems(404),
)
async def remove(gateway: Gw, caller: Caller, name: Name, project: Project = None) -> None:
    """What is in the directory stays; sessions that mounted it keep it until they end."""
    await volumes.KEEPER.remove(gateway, caller, name, project)
