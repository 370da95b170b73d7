"""Users: list them, let them in, keep them out. Operators do; managers keep the service accounts of their projects."""

import asyncio

from sqlalchemy import Connection
from ulid import ULID

from gateway.core import audit, ruling, unix
from gateway.core.asking import may
from gateway.core.context import Gateway
from gateway.errors import Conflict, Invalid
from gateway.model.policy import Decision
from gateway.model.principal import Principal, Role
from gateway.model.project import Member
from gateway.model.user import (
    RESERVED,
    MeView,
    NewUser,
    UnixAccount,
    User,
    UserRequest,
    UserState,
    UserView,
)
from gateway.store import named, projects, secrets, signins, tokens, volumes
from gateway.store import users as store

FRESH = 0.25
"""Seconds for which a process may go by what it knows of a caller before it looks again."""


async def settled() -> None:
    """Return when no replica goes by what held before: each looks again at least every FRESH seconds."""
    await asyncio.sleep(FRESH * 1.2)


def me(caller: Principal) -> MeView:
    """The caller as the gateway takes them."""
    known = caller.model_dump(include={"name", "kind", "admin", "operator", "session", "project", "token", "origin"})
    return MeView(
        **known,
        groups=tuple(sorted(caller.groups)),
        projects=dict(sorted(caller.projects.items())),
        scopes=tuple(sorted(caller.scopes)),
        unix=caller.unix,
    )


async def list_users(gateway: Gateway, caller: Principal, *, state: UserState | None = None) -> list[UserView]:
    """Those that the caller may know of."""
    return await gateway.db.read(lambda connection: store.find(connection, caller, state=state))


async def get(gateway: Gateway, caller: Principal, name: str) -> UserView:
    """UserNotFound."""
    return await gateway.db.read(store.get, caller, name)


async def create(gateway: Gateway, caller: Principal, request: NewUser) -> UserView:
    """A person, by an operator; a service account, by a manager of its project. Conflict if the name was ever given."""
    _sound(request)
    user = User(
        id=str(ULID()),
        name=request.name,
        kind=request.kind,
        state=request.state or "active",
        title=request.title or "",
        admin=bool(request.admin),
        operator=bool(request.operator),
        project=request.project,
        created_at=gateway.clock(),
    )
    told = audit.by(gateway, caller)

    def look(connection: Connection) -> Decision:
        if request.project is not None:
            projects.get(connection, caller, request.project)
        changes = ("unix",) if request.unix else ()
        return may(gateway, caller, "user.create", ruling.user(connection, user, changes, new=True))

    await gateway.db.read(look)  # before anybody's cluster is asked for a uid
    if request.name in RESERVED:
        raise Conflict(f"the name {request.name!r} means somebody else here", hint="Choose another.")
    accounts = await _checked(gateway, request.unix or ())

    def write(connection: Connection) -> UserView:
        policy = look(connection).policy
        store.add(connection, user, identity=request.identity, unix=accounts, inherit=True)
        if request.project is not None:
            projects.set_member(connection, request.project, user.id, Member(user=user.name, role=Role.MEMBER))
        said = request.model_dump(mode="json", exclude_none=True, exclude={"name"})
        audit.record(
            connection, told, "user.create", "user", user.name, project=request.project, policy=policy, details=said
        )
        return store.get(connection, caller, user.name)

    return await gateway.db.write(write)


async def change(gateway: Gateway, caller: Principal, name: str, request: UserRequest) -> UserView:
    """What is said of a user changes; the answer comes when no replica goes by what was."""
    told = audit.by(gateway, caller)

    def look(connection: Connection) -> tuple[UserView, Decision]:
        view = store.get(connection, caller, name)
        subject = ruling.user(connection, view, ruling.said(request))
        return view, may(gateway, caller, "user.change", subject)

    await gateway.db.read(look)
    accounts = await _checked(gateway, request.unix or ())

    def write(connection: Connection) -> UserView:
        view, decision = look(connection)
        if view.state == "removed" and request.state is not None:
            raise Conflict(f"{view.name} was removed", hint="Make a new user; names are never given twice.")
        values = request.model_dump(include={"state", "title", "admin", "operator"}, exclude_none=True)
        store.save(connection, User.model_validate(view.model_dump()).model_copy(update=values))
        if request.unix is not None:
            store.set_unix(connection, view.id, accounts, inherit=True)
        if request.state == "disabled":
            signins.end_of_user(connection, view.id)
        said = request.model_dump(mode="json", exclude_none=True)
        audit.record(connection, told, "user.change", "user", name, policy=decision.policy, details=said)
        return store.get(connection, caller, name)

    changed = await gateway.db.write(write)
    await settled()
    return changed


async def remove(gateway: Gateway, caller: Principal, name: str) -> UserView:
    """Out for good: every token revoked, every browser signed out, no secrets, no place in any project.

    The row and the name stay. Sessions are another matter: see gateway.core.boarding.
    """
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> UserView:
        view = store.get(connection, caller, name)
        decision = may(gateway, caller, "user.remove", ruling.user(connection, view))
        tokens.revoke_all(connection, view.id, gateway.clock())
        signins.end_of_user(connection, view.id)
        named.remove_all(connection, secrets.SHELF, view.id)
        named.remove_all(connection, volumes.SHELF, view.id)
        for project in view.projects:
            projects.remove_member(connection, project, view.id)
        user = User.model_validate(view.model_dump())
        store.save(connection, user.model_copy(update={"state": "removed", "admin": False, "operator": False}))
        audit.record(connection, told, "user.remove", "user", name, policy=decision.policy)
        return store.get(connection, caller, name)

    removed = await gateway.db.write(write)
    await settled()
    return removed


async def _checked(gateway: Gateway, accounts: tuple[UnixAccount, ...]) -> list[UnixAccount]:
    """With their uids. Forbidden for root and system users; ClusterNotFound."""
    found = []
    for account in accounts:
        uid = await unix.look_up(gateway.cluster(account.cluster), account.name)
        unix.check(gateway, account.name, uid)
        found.append(account.model_copy(update={"uid": uid}))
    return found


def _sound(request: NewUser) -> None:
    if request.kind == "service" and request.project is None:
        raise Invalid("a service account belongs to a project", hint="Name it: --project.")
    if request.kind == "person" and request.project is not None:
        raise Invalid("a person belongs to no single project", hint="Make them a member: sluice project member.")
