"""`/api/v1/users`: who may come in, and as whom they run."""

from typing import Annotated

from fastapi import APIRouter, Query

from gateway.core import boarding, users
from gateway.model.api import Page
from gateway.model.boarding import BoardRequest, BoardView, LeaveRequest
from gateway.model.user import NewUser, UserRequest, UserState, UserView
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import problems

router = APIRouter(prefix="/users", tags=["identity"])


@router.get("", operation_id="listUsers", summary="List the users that you may know of")
async def list_users(
    gateway: Gw,
    caller: Caller,
    *,
    state: Annotated[UserState | None, Query(description="`pending`: who waits to be let in.")] = None,
) -> Page[UserView]:
    """Operators see all; managers the service accounts of their projects; everybody themselves."""
    return Page[UserView](items=await users.list_users(gateway, caller, state=state))


@router.post("", operation_id="createUser", summary="Make a user", status_code=201, responses=problems(404, 409, 422))
async def create(gateway: Gw, caller: Caller, request: NewUser) -> UserView:
    """A person, by an operator; a service account, also by a manager of its project."""
    return await users.create(gateway, caller, request)


@router.get("/{name}", operation_id="getUser", summary="Get a user", responses=problems(404))
async def get(gateway: Gw, caller: Caller, name: str) -> UserView:
    """With Unix users, projects, and how providers call them."""
    return await users.get(gateway, caller, name)


@router.patch("/{name}", operation_id="changeUser", summary="Change a user", responses=problems(404, 409, 422))
async def change(gateway: Gw, caller: Caller, name: str, request: UserRequest) -> UserView:
    """Let in, keep out, say as whom they run. When this is answered every replica goes by it."""
    return await users.change(gateway, caller, name, request)


@router.post("/{name}/onboarding", operation_id="takeOn", summary="Take somebody on", responses=problems(404, 409, 503))
async def take_on(gateway: Gw, caller: Caller, name: str, request: BoardRequest) -> BoardView:
    """User, place in a project, Slurm association and directory. What is there already stays: do it again at will."""
    return await boarding.take_on(gateway, caller, name, request)


@router.post("/{name}/offboarding", operation_id="seeOff", summary="See somebody off", responses=problems(404, 503))
async def see_off(gateway: Gw, caller: Caller, name: str, request: LeaveRequest) -> BoardView:
    """Tokens revoked, sessions stopped, associations taken, directories packed. Again, until it is `complete`."""
    return await boarding.see_off(gateway, caller, name, request)


@router.delete("/{name}", operation_id="removeUser", summary="Remove a user", responses=problems(404, 409))
async def remove(gateway: Gw, caller: Caller, name: str) -> UserView:
    """Tokens revoked, browsers signed out, no place in any project. The name is never given again."""
    return await users.remove(gateway, caller, name)
