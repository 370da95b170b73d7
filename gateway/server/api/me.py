"""`/api/v1/me`: who the gateway takes the caller for."""

from fastapi import APIRouter

from gateway.core import users
from gateway.model.user import MeView
from gateway.web.caller import Caller

router = APIRouter(prefix="/me", tags=["identity"])


@router.get("", operation_id="getMe", summary="Who am I?")
async def me(caller: Caller) -> MeView:
    """Name, projects with roles, Unix users, and what the token may do. Any token may ask."""
    return users.me(caller)
