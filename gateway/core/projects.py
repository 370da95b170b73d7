"""Projects: operators make them, managers keep their members."""

from sqlalchemy import Connection

from gateway.core import audit
from gateway.core.context import Gateway
from gateway.core.users import settled
from gateway.errors import Conflict, Forbidden, Invalid, UserNotFound
from gateway.model.principal import Principal, Role, Scope
from gateway.model.project import DEFAULT, Member, NewProject, Project, ProjectRequest, ProjectState, ProjectView, Share
from gateway.store import projects as store
from gateway.store import users


async def list_projects(gateway: Gateway, caller: Principal) -> list[ProjectView]:
    """Those that the caller may know of."""
    return await gateway.db.read(store.find, caller)


async def get(gateway: Gateway, caller: Principal, name: str) -> ProjectView:
    """ProjectNotFound."""
    return await gateway.db.read(store.get, caller, name)


async def create(gateway: Gateway, caller: Principal, request: NewProject) -> ProjectView:
    """By an operator."""
    _operator(caller, "make projects")
    _check_shares(gateway, request.shares or ())
    project = Project(
        name=request.name,
        title=request.title or "",
        labels=request.labels or {},
        shares=request.shares or (),
        created_at=gateway.clock(),
    )

    told = audit.by(gateway, caller)

    def write(connection: Connection) -> ProjectView:
        store.add(connection, project)
        said = project.model_dump(mode="json", include={"title", "labels", "shares"})
        audit.record(connection, told, "project.create", "project", project.name, project=project.name, details=said)
        return store.get(connection, caller, project.name)

    return await gateway.db.write(write)


async def change(gateway: Gateway, caller: Principal, name: str, request: ProjectRequest) -> ProjectView:
    """Title and labels by a manager, accounts on clusters by an operator."""
    caller.require(Scope.ADMIN)
    _check_shares(gateway, request.shares or ())
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> ProjectView:
        view = store.get(connection, caller, name)
        _manager(caller, view)
        if request.shares is not None:
            _operator(caller, "give a project accounts on clusters")
        values = request.model_dump(include={"title", "labels"}, exclude_none=True)
        if request.shares is not None:
            values["shares"] = request.shares
        store.save(connection, _project(view).model_copy(update=values))
        said = request.model_dump(mode="json", exclude_none=True)
        audit.record(connection, told, "project.change", "project", name, project=name, details=said)
        return store.get(connection, caller, name)

    return await gateway.db.write(write)


async def archive(gateway: Gateway, caller: Principal, name: str, *, state: ProjectState = "archived") -> ProjectView:
    """Nothing new starts in an archived project; what was stays to be read. By an operator, who can undo it."""
    _operator(caller, "archive projects")
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> ProjectView:
        view = store.get(connection, caller, name)
        if name == DEFAULT:
            raise Conflict(f"the project {DEFAULT} is always there")
        store.save(connection, _project(view).model_copy(update={"state": state}))
        audit.record(connection, told, "project.archive", "project", name, project=name, details={"state": state})
        return store.get(connection, caller, name)

    return await gateway.db.write(write)


async def set_member(gateway: Gateway, caller: Principal, name: str, user: str, role: Role) -> ProjectView:
    """By a manager, who names a user by their full name: whom they may not list they may still take in."""
    caller.require(Scope.ADMIN)
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> ProjectView:
        view = store.get(connection, caller, name)
        _manager(caller, view)
        user_id = users.id_of(connection, user)
        if user_id is None:
            raise UserNotFound(f"there is no user {user!r}", hint="They must have signed in once, or been added.")
        store.set_member(connection, name, user_id, Member(user=user, role=role))
        audit.record(connection, told, "member.set", "user", user, project=name, details={"role": role.value})
        return store.get(connection, caller, name)

    changed = await gateway.db.write(write)
    await settled()
    return changed


async def remove_member(gateway: Gateway, caller: Principal, name: str, user: str) -> ProjectView:
    """No error if they were none. Sessions that they have go on: stop them, if they should not."""
    caller.require(Scope.ADMIN)
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> ProjectView:
        view = store.get(connection, caller, name)
        _manager(caller, view)
        user_id = users.id_of(connection, user)
        if user_id is not None:
            store.remove_member(connection, name, user_id)
            audit.record(connection, told, "member.remove", "user", user, project=name)
        return store.get(connection, caller, name)

    changed = await gateway.db.write(write)
    await settled()
    return changed


def _project(view: ProjectView) -> Project:
    return Project.model_validate(view.model_dump())


def _operator(caller: Principal, what: str) -> None:
    caller.require(Scope.ADMIN)
    if not caller.everywhere:
        raise Forbidden(f"only operators {what}")


def _manager(caller: Principal, view: ProjectView) -> None:
    """Those who may not know of a project never get here: for them there is none."""
    if not (caller.everywhere or caller.has_role(view.name, Role.MANAGER)):
        raise Forbidden(f"only managers of project {view.name} change it")


def _check_shares(gateway: Gateway, shares: tuple[Share, ...]) -> None:
    clusters = [share.cluster for share in shares]
    for cluster in clusters:
        gateway.cluster(cluster)
    if len(set(clusters)) != len(clusters):
        raise Invalid("a cluster stands twice among the accounts of the project")
