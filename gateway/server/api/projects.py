"""`/api/v1/projects`: who works together, under which Slurm account."""

from typing import Annotated

from fastapi import APIRouter, Body

from gateway.core import projects
from gateway.model.api import Page
from gateway.model.project import MemberRequest, NewProject, ProjectRequest, ProjectState, ProjectView
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import problems

router = APIRouter(prefix="/projects", tags=["identity"])


@router.get("", operation_id="listProjects", summary="List your projects")
async def list_projects(gateway: Gw, caller: Caller) -> Page[ProjectView]:
    """With your role in each; operators see all."""
    return Page[ProjectView](items=await projects.list_projects(gateway, caller))


@router.post(
    "", operation_id="createProject", summary="Make a project", status_code=201, responses=problems(404, 409, 422)
)
async def create(gateway: Gw, caller: Caller, request: NewProject) -> ProjectView:
    """By an operator."""
    return await projects.create(gateway, caller, request)


@router.get("/{name}", operation_id="getProject", summary="Get a project", responses=problems(404))
async def get(gateway: Gw, caller: Caller, name: str) -> ProjectView:
    """With its members, and its account on each cluster."""
    return await projects.get(gateway, caller, name)


@router.patch("/{name}", operation_id="changeProject", summary="Change a project", responses=problems(404, 422))
async def change(gateway: Gw, caller: Caller, name: str, request: ProjectRequest) -> ProjectView:
    """Title and labels by a manager; accounts on clusters by an operator."""
    return await projects.change(gateway, caller, name, request)


@router.put("/{name}/state", operation_id="archiveProject", summary="Archive a project", responses=problems(404, 409))
async def archive(
    gateway: Gw, caller: Caller, name: str, state: Annotated[ProjectState, Body(embed=True)] = "archived"
) -> ProjectView:
    """Nothing new starts in an archived one. By an operator, who may make it active again."""
    return await projects.archive(gateway, caller, name, state=state)


@router.put("/{name}/members/{user}", operation_id="setMember", summary="Take somebody in", responses=problems(404))
async def set_member(gateway: Gw, caller: Caller, name: str, user: str, request: MemberRequest) -> ProjectView:
    """Or give them another role. By a manager."""
    return await projects.set_member(gateway, caller, name, user, request.role)


@router.delete(
    "/{name}/members/{user}", operation_id="removeMember", summary="Let somebody out", responses=problems(404)
)
async def remove_member(gateway: Gw, caller: Caller, name: str, user: str) -> ProjectView:
    """By a manager. Their sessions go on until they are stopped."""
    return await projects.remove_member(gateway, caller, name, user)
