"""Users, their identities and Unix accounts. Who asks for others starts from `visible_to`; sign-in asks for nobody."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from gateway.errors import Conflict, UserNotFound
from gateway.model.principal import Principal, Role
from gateway.model.user import Identity, Person, UnixAccount, User, UserState, UserView
from gateway.store.people import identities, members, unix_accounts, users
from gateway.store.revision import bump


def visible_to(caller: Principal) -> Select[Any]:
    """The users that the caller may know of: operators all, others themselves and their projects' service accounts."""
    query = select(users)
    if caller.everywhere:
        return query
    managed = [name for name in caller.projects if caller.has_role(name, Role.MANAGER)]
    return query.where(or_(users.c.id == caller.id, users.c.project.in_(sorted(managed))))


def find(connection: Connection, caller: Principal, *, state: UserState | None = None) -> list[UserView]:
    """By name."""
    query = visible_to(caller)
    if state is not None:
        query = query.where(users.c.state == state)
    return [_view(connection, _user(row)) for row in connection.execute(query.order_by(users.c.name))]


def get(connection: Connection, caller: Principal, name: str) -> UserView:
    """UserNotFound also for those that the caller may not know of."""
    row = connection.execute(visible_to(caller).where(users.c.name == name)).one_or_none()
    if row is None:
        raise UserNotFound(f"there is no user {name!r}", hint="`sluice user list` shows those that you may know of.")
    return _view(connection, _user(row))


def add(
    connection: Connection,
    user: User,
    *,
    identity: Identity | None = None,
    unix: Iterable[UnixAccount] = (),
    inherit: bool = False,
) -> None:
    """Conflict if the name or the identity was ever given to somebody, or a Unix user is another's: see `set_unix`."""
    try:
        with connection.begin_nested():
            connection.execute(insert(users).values(**_values(user)))
            if identity is not None:
                connection.execute(insert(identities).values(**identity.model_dump(), user_id=user.id))
    except IntegrityError as error:
        raise Conflict(
            f"the name {user.name!r} or this identity is taken", hint="Names are never given twice; choose another."
        ) from error
    set_unix(connection, user.id, unix, inherit=inherit)
    bump(connection)


def save(connection: Connection, user: User) -> None:
    """Write a changed user."""
    connection.execute(update(users).where(users.c.id == user.id).values(**_values(user)))
    bump(connection)


def seen(connection: Connection, user: User, now: datetime, *, groups: Sequence[str], title: str, email: str) -> None:
    """What the provider said at a sign-in."""
    values = {"seen_at": now, "groups": list(groups), "title": title or user.title, "email": email}
    connection.execute(update(users).where(users.c.id == user.id).values(**values))
    bump(connection)


def set_unix(connection: Connection, user_id: str, accounts: Iterable[UnixAccount], *, inherit: bool = False) -> None:
    """Replace a user's Unix accounts. Conflict if one of them is another user's: nobody runs as somebody else.

    Those of users who were removed are still theirs, so that nobody comes back by signing in again; with `inherit`,
    for an operator who knows who it is, they are given on.
    """
    connection.execute(delete(unix_accounts).where(unix_accounts.c.user_id == user_id))
    removed = select(users.c.id).where(users.c.state == "removed")
    for account in accounts:
        if inherit:
            same = unix_accounts.c.cluster == account.cluster, unix_accounts.c.name == account.name
            connection.execute(delete(unix_accounts).where(*same, unix_accounts.c.user_id.in_(removed)))
        try:
            with connection.begin_nested():
                connection.execute(insert(unix_accounts).values(**account.model_dump(), user_id=user_id))
        except IntegrityError as error:
            raise Conflict(
                f"the Unix user {account.name} of cluster {account.cluster} is another user's already",
                hint="`sluice user list` shows whose.",
            ) from error
    bump(connection)


def set_uid(connection: Connection, cluster: str, name: str, uid: int) -> None:
    """Keep a uid that was looked up."""
    here = unix_accounts.c.cluster == cluster, unix_accounts.c.name == name
    connection.execute(update(unix_accounts).where(*here).values(uid=uid))


def by_identity(connection: Connection, identity: Identity) -> User | None:
    """Whom a provider means by a subject: the only way in which a provider's word finds somebody."""
    query = select(users).join(identities, identities.c.user_id == users.c.id)
    where = identities.c.issuer == identity.issuer, identities.c.subject == identity.subject
    row = connection.execute(query.where(*where)).one_or_none()
    return _user(row) if row is not None else None


def by_unix(connection: Connection, cluster: str, name: str) -> User | None:
    """Whose Unix user this is on a cluster."""
    query = select(users).join(unix_accounts, unix_accounts.c.user_id == users.c.id)
    row = connection.execute(
        query.where(unix_accounts.c.cluster == cluster, unix_accounts.c.name == name)
    ).one_or_none()
    return _user(row) if row is not None else None


def id_of(connection: Connection, name: str) -> str | None:
    """Whose name this is, or was; to be told whether it is free, and for those who know it already."""
    return connection.execute(select(users.c.id).where(users.c.name == name)).scalar()


def person(connection: Connection, user_id: str) -> Person | None:
    """A user with roles and Unix accounts, for the caller that they are."""
    row = connection.execute(select(users).where(users.c.id == user_id)).one_or_none()
    if row is None:
        return None
    user = _user(row)
    return Person(user=user, projects=_roles(connection, user_id), unix=_unix(connection, user_id))


def person_of(connection: Connection, user_id: str) -> Person:
    """The same of one who is there."""
    found = person(connection, user_id)
    if found is None:
        raise UserNotFound("this user is gone")
    return found


def uid(connection: Connection, cluster: str, name: str) -> int | None:
    """The uid of a Unix user, if it was looked up before."""
    query = select(unix_accounts.c.uid).where(unix_accounts.c.cluster == cluster, unix_accounts.c.name == name)
    return connection.execute(query).scalar()


def set_group_roles(connection: Connection, user_id: str, roles: Mapping[str, Role]) -> None:
    """The places in projects that a provider's groups give; what was given by hand stays as it is."""
    mine = members.c.user_id == user_id
    connection.execute(delete(members).where(mine, members.c.source == "groups"))
    by_hand = set(connection.execute(select(members.c.project).where(mine)).scalars())
    for project, role in roles.items():
        if project not in by_hand:
            values = {"project": project, "user_id": user_id, "role": role.value, "source": "groups"}
            connection.execute(insert(members).values(**values))
    bump(connection)


def _view(connection: Connection, user: User) -> UserView:
    query = select(identities.c.issuer, identities.c.subject).where(identities.c.user_id == user.id)
    known = tuple(Identity.model_validate(row, from_attributes=True) for row in connection.execute(query))
    unix, roles = _unix(connection, user.id), _roles(connection, user.id)
    return UserView(**user.model_dump(), unix=unix, projects=roles, identities=known)


def _unix(connection: Connection, user_id: str) -> tuple[UnixAccount, ...]:
    query = select(unix_accounts.c.cluster, unix_accounts.c.name, unix_accounts.c.uid)
    rows = connection.execute(query.where(unix_accounts.c.user_id == user_id).order_by(unix_accounts.c.cluster))
    return tuple(UnixAccount.model_validate(row, from_attributes=True) for row in rows)


def _roles(connection: Connection, user_id: str) -> dict[str, Role]:
    query = select(members.c.project, members.c.role).where(members.c.user_id == user_id)
    return {row.project: Role(row.role) for row in connection.execute(query.order_by(members.c.project))}


def _user(row: Row[Any]) -> User:
    return User.model_validate(row, from_attributes=True)


def _values(user: User) -> dict[str, Any]:
    return user.model_dump() | {"groups": list(user.groups)}
