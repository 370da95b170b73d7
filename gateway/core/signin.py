"""The first and every later sign-in: from what a provider says of somebody to a user who is let in, or waits."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection
from ulid import ULID

from gateway.core import audit, unix
from gateway.core.context import Gateway
from gateway.errors import Conflict, SluiceError, Unavailable
from gateway.model.audit import AuditLine, Way
from gateway.model.claims import ClaimRules, Described, describe
from gateway.model.user import RESERVED, Identity, Person, UnixAccount, User, UserState, spelled
from gateway.store import projects, users


async def admit(gateway: Gateway, identity: Identity, claims: Mapping[str, Any], *, origin: Way = "api") -> Person:
    """The user whom the provider means, made if they are new; in whichever state they are.

    Only issuer and subject find somebody: a name or an e-mail address that somebody else had gives nothing of theirs.
    """
    settings = gateway.settings.identity.oidc
    rules = ClaimRules.model_validate(settings.model_dump())
    told = describe(claims, rules, await gateway.db.read(projects.known))
    accounts, note = await _accounts(gateway, told) if told.unix is not None else ((), "")
    new_id, now = str(ULID()), gateway.clock()
    asked = audit.by_nobody(gateway, origin)

    def write(connection: Connection) -> Person:
        user = users.by_identity(connection, identity)
        if user is None:
            user = User(
                id=new_id,
                name=_free(connection, told.name),
                state="active" if settings.unknown == "admit" else "pending",
                note=note,
                created_at=now,
            )
            users.add(connection, user, identity=identity)
            _admitted(connection, asked, user, identity.issuer)
            note_two = _give(connection, user, accounts)
            if note_two:
                users.save(connection, user.model_copy(update={"note": note_two}))
        user = users.person_of(connection, user.id).user
        if user.state != "removed":
            if rules.admin_groups or rules.operator_groups:
                user = user.model_copy(update={"admin": told.admin, "operator": told.operator})
                users.save(connection, user)
            users.seen(connection, user, now, groups=told.groups, title=told.title, email=told.email)
            if rules.groups:
                users.set_group_roles(connection, user.id, told.roles)
        audit.record(connection, audit.known(asked, user), "sign.in", "user", user.name, details={"state": user.state})
        return users.person_of(connection, user.id)

    return await gateway.db.write(write)


async def meet(gateway: Gateway, account: UnixAccount) -> Person:
    """A Unix user of a login node who is new here: let in, or kept waiting, as the site wants it."""
    state: UserState = "active" if gateway.settings.identity.socket_unknown == "admit" else "pending"
    new_id, now = str(ULID()), gateway.clock()
    asked = audit.by_nobody(gateway, "socket")

    def write(connection: Connection) -> Person:
        user = users.by_unix(connection, account.cluster, account.name)
        if user is None:
            user = User(id=new_id, name=_free(connection, account.name), state=state, created_at=now)
            users.add(connection, user, unix=(account,))
            _admitted(connection, asked, user, f"Unix user on {account.cluster}")
        return users.person_of(connection, user.id)

    return await gateway.db.write(write)


async def vouched(gateway: Gateway, user: User, said: audit.Details) -> None:
    """Somebody signs in whom the machine vouches for: a row says who, by what, and in which state."""
    told = audit.known(audit.by_nobody(gateway, "socket"), user)

    def write(connection: Connection) -> None:
        audit.record(connection, told, "sign.in", "user", user.name, details={"state": user.state, **said})

    await gateway.db.write(write)


def _admitted(connection: Connection, asked: AuditLine, user: User, known_by: str) -> None:
    """Somebody new: a user was made, let in or waiting."""
    said: audit.Details = {"state": user.state, "by": known_by}
    audit.record(connection, audit.known(asked, user), "user.admit", "user", user.name, details=said)


async def _accounts(gateway: Gateway, told: Described) -> tuple[tuple[UnixAccount, ...], str]:
    """The Unix user that the mapping says, on every cluster where there is one that may be; and why it may not."""
    found, notes = [], []
    for name, cluster in gateway.clusters.items():
        try:
            uid = await unix.look_up(cluster, told.unix or "")
            if uid is None and gateway.settings.identity.oidc.unix_user == "getent":
                raise Unavailable("its users cannot be looked up")
            unix.check(gateway, told.unix or "", uid)
            found.append(UnixAccount(cluster=name, name=told.unix or "", uid=uid))
        except SluiceError as error:
            notes.append(f"{name}: {error.message}")
    return tuple(found), "; ".join(notes)


def _give(connection: Connection, user: User, accounts: tuple[UnixAccount, ...]) -> str:
    """Give a new user their Unix users, unless one is another's already: then an operator has to look."""
    try:
        with connection.begin_nested():
            users.set_unix(connection, user.id, accounts)
    except Conflict as error:
        return error.message
    return ""


def _free(connection: Connection, wanted: str) -> str:
    """A name that nobody has or had."""
    number = 1
    while (name := spelled(wanted, number)) in RESERVED or users.id_of(connection, name) is not None:
        number += 1
    return name
