"""`/api/v1/images`: the container images of the recipes, as the gateway knows them."""

from typing import Annotated

from fastapi import APIRouter, Query

from gateway.core import images
from gateway.model.api import Page
from gateway.model.image import Image
from gateway.server.api import examples
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import example

router = APIRouter(prefix="/images", tags=["images"])


@router.get(
    "",
    operation_id="listImages",
    summary="List the images",
    responses={200: example({"items": [examples.IMAGE], "next": None}, "Every digest, the newest of a name first.")},
)
async def list_images(
    gateway: Gw,
    caller: Caller,
    cluster: Annotated[str | None, Query(description="Only on this cluster.")] = None,
    name: Annotated[str | None, Query(description="Only of this name.")] = None,
) -> Page[Image]:
    """A new session gets the newest image of the name that its recipe says, and keeps it."""
    del caller
    return Page[Image](items=list(await images.every(gateway.db, cluster, name)))
