"""Sluice's tokens: made for oneself or for a service account, never more than their maker may, revoked at once."""

import secrets
from datetime import timedelta

from sqlalchemy import Connection
from ulid import ULID

from gateway.core import audit, ruling
from gateway.core.asking import may
from gateway.core.context import Gateway
from gateway.core.users import settled
from gateway.errors import Invalid
from gateway.model import token as model
from gateway.model.fixed import forbidden
from gateway.model.principal import Principal, Scope
from gateway.model.token import NewTokenView, Token, TokenRequest, TokenView
from gateway.store import projects, sessions, users
from gateway.store import tokens as store


async def create(gateway: Gateway, caller: Principal, request: TokenRequest) -> NewTokenView:
    """The token with its text, which nobody is told again. It reaches no further than the caller's own does."""
    if not caller.id:
        raise forbidden("fixed-somebody", "you are nobody whom a token could stand for")
    token_id, secret, now = str(ULID()), secrets.token_urlsafe(32), gateway.clock()
    scopes = model.narrowed(request.scopes, caller.scopes)
    if not scopes:
        raise Invalid("the token could do nothing", hint=f"Scopes: {', '.join(Scope)}.")

    told = audit.by(gateway, caller)

    def write(connection: Connection) -> TokenView:
        owner = caller.id, caller.name
        if request.user is not None and request.user != caller.name:
            view = users.get(connection, caller, request.user)
            owner = view.id, view.name
        session = request.session or caller.session
        if request.session is not None:
            session = sessions.get(connection, caller, request.session).id
        token = Token(
            id=token_id,
            name=request.name,
            user_id=owner[0],
            scopes=scopes,
            project=request.project or caller.project,
            session=session,
            created_at=now,
            created_by=caller.name,
            expires_at=now + timedelta(days=request.days),
        )
        policy = may(gateway, caller, "token.create", ruling.token(connection, token, owner[1])).policy
        if token.project is not None:
            projects.get(connection, caller, token.project)
        store.add(connection, token, model.digest(secret))
        made = store.get(connection, caller, token_id)
        said = made.model_dump(mode="json", include={"name", "user", "scopes", "expires_at"})
        audit.record(
            connection,
            told,
            "token.create",
            "token",
            token_id,
            project=token.project,
            session=session,
            policy=policy,
            details=said,
        )
        return made

    view = await gateway.db.write(write)
    return NewTokenView(**view.model_dump(), token=model.spell(token_id, secret))


async def list_tokens(gateway: Gateway, caller: Principal, *, all_: bool = False) -> list[TokenView]:
    """The caller's, and those of the service accounts that they keep."""
    return await gateway.db.read(lambda connection: store.find(connection, caller, all_=all_))


async def get(gateway: Gateway, caller: Principal, ref: str) -> TokenView:
    """By id or name. TokenNotFound."""
    return await gateway.db.read(store.get, caller, ref)


async def revoke(gateway: Gateway, caller: Principal, ref: str) -> TokenView:
    """When this returns no replica takes the token any more. A token may always revoke itself."""
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> TokenView:
        view = store.get(connection, caller, ref)
        policy = may(gateway, caller, "token.revoke", ruling.token(connection, view, view.user)).policy
        store.revoke(connection, view.id, gateway.clock())
        said: audit.Details = {"name": view.name, "user": view.user}
        audit.record(
            connection, told, "token.revoke", "token", view.id, project=view.project, policy=policy, details=said
        )
        return store.get(connection, caller, view.id)

    view = await gateway.db.write(write)
    await settled()
    return view
