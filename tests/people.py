"""People for tests: users, projects and tokens of a site, made as an operator makes them."""

from dataclasses import dataclass
from typing import Any

from gateway.core import projects, tokens, users
from gateway.model.principal import LOCAL_ADMIN, Principal, Role, Scope
from gateway.model.project import NewProject
from gateway.model.token import TokenRequest
from gateway.model.user import NewUser, UnixAccount
from gateway.store import users as store
from tests.services import Site


@dataclass(frozen=True)
class Somebody:
    """A user with a token that may do all that the user may."""

    name: str
    token: str
    token_id: str

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


async def a_project(site: Site, name: str, **values: Any) -> None:
    await projects.create(site.gateway, LOCAL_ADMIN, NewProject(name=name, **values))


async def a_person(site: Site, name: str, roles: dict[str, str], *, unix: str | None = None, **values: Any) -> Somebody:
    """A person with places in projects; their Unix user on the cluster `c` is called as they are."""
    accounts = (UnixAccount(cluster="c", name=unix or name),)
    await users.create(site.gateway, LOCAL_ADMIN, NewUser(name=name, unix=accounts, **values))
    for project, role in roles.items():
        await projects.set_member(site.gateway, LOCAL_ADMIN, project, name, Role(role))
    return await a_token(site, name)


async def principal(site: Site, name: str) -> Principal:
    user_id = await site.gateway.db.read(store.id_of, name)
    person = await site.gateway.db.read(store.person, user_id or "")
    assert person is not None
    return person.principal()


async def a_token(site: Site, name: str, *scopes: str, **values: Any) -> Somebody:
    """A token of somebody's; without scopes it may do everything that they may."""
    asked = frozenset(Scope(scope) for scope in scopes) or frozenset(Scope)
    request = TokenRequest(name="test", scopes=asked, **values)
    made = await tokens.create(site.gateway, await principal(site, name), request)
    return Somebody(name, made.token, made.id)
