"""Projects: operators make them, managers keep their members."""

from sqlalchemy import Connection

from gateway.core import audit, ruling
from gateway.core.asking import may
from gateway.core.context import Gateway
from gateway.core.users import settled
from gateway.errors import Conflict, Invalid, UserNotFound
from gateway.model.audit import AuditLine
from gateway.model.policy import Decision
from gateway.model.principal import Principal, Role
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
        decision = may(gateway, caller, "project.create", ruling.project(project, ruling.said(request)))
        store.add(connection, project)
        said = project.model_dump(mode="json", include={"title", "labels", "shares"})
        _record(connection, told, "project.create", project.name, decision, said)
        return store.get(connection, caller, project.name)

    return await gateway.db.write(write)


async def change(gateway: Gateway, caller: Principal, name: str, request: ProjectRequest) -> ProjectView:
    """Title and labels by a manager, accounts on clusters by an operator."""
    _check_shares(gateway, request.shares or ())
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> ProjectView:
        view = store.get(connection, caller, name)
        decision = may(gateway, caller, "project.change", ruling.project(view, ruling.said(request)))
        values = request.model_dump(include={"title", "labels"}, exclude_none=True)
        if request.shares is not None:
            values["shares"] = request.shares
        store.save(connection, _project(view).model_copy(update=values))
        said = request.model_dump(mode="json", exclude_none=True)
        _record(connection, told, "project.change", name, decision, said)
        return store.get(connection, caller, name)

    return await gateway.db.write(write)


async def archive(gateway: Gateway, caller: Principal, name: str, *, state: ProjectState = "archived") -> ProjectView:
    """Nothing new starts in an archived project; what was stays to be read. By an operator, who can undo it."""
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> ProjectView:
        view = store.get(connection, caller, name)
        decision = may(gateway, caller, "project.archive", ruling.project(view, ("state",)))
        if name == DEFAULT:
            raise Conflict(f"the project {DEFAULT} is always there")
        store.save(connection, _project(view).model_copy(update={"state": state}))
        _record(connection, told, "project.archive", name, decision, {"state": state})
        return store.get(connection, caller, name)

    return await gateway.db.write(write)


async def set_member(gateway: Gateway, caller: Principal, name: str, user: str, role: Role) -> ProjectView:
    """By a manager, who names a user by their full name: whom they may not list they may still take in."""
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> ProjectView:
        view = store.get(connection, caller, name)
        policy = may(gateway, caller, "member.set", ruling.place(view, user, role)).policy
        user_id = users.id_of(connection, user)
        if user_id is None:
            raise UserNotFound(f"there is no user {user!r}", hint="They must have signed in once, or been added.")
        store.set_member(connection, name, user_id, Member(user=user, role=role))
        said: audit.Details = {"role": role.value}
        audit.record(connection, told, "member.set", "user", user, project=name, policy=policy, details=said)
        return store.get(connection, caller, name)

    changed = await gateway.db.write(write)
    await settled()
    return changed


async def remove_member(gateway: Gateway, caller: Principal, name: str, user: str) -> ProjectView:
    """No error if they were none. Sessions that they have go on: stop them, if they should not."""
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> ProjectView:
        view = store.get(connection, caller, name)
        policy = may(gateway, caller, "member.remove", ruling.place(view, user)).policy
        user_id = users.id_of(connection, user)
        if user_id is not None:
            store.remove_member(connection, name, user_id)
            audit.record(connection, told, "member.remove", "user", user, project=name, policy=policy)
        return store.get(connection, caller, name)

    changed = await gateway.db.write(write)
    await settled()
    return changed


def _project(view: ProjectView) -> Project:
    return Project.model_validate(view.model_dump())


def _record(
    connection: Connection, told: AuditLine, action: str, name: str, decision: Decision, said: audit.Details
) -> None:
    audit.record(connection, told, action, "project", name, project=name, policy=decision.policy, details=said)


def _check_shares(gateway: Gateway, shares: tuple[Share, ...]) -> None:
    clusters = [share.cluster for share in shares]
    for cluster in clusters:
        gateway.cluster(cluster)
    if len(set(clusters)) != len(clusters):
        raise Invalid("a cluster stands twice among the accounts of the project")
