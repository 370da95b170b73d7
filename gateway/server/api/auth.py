"""`/api/v1/auth`: how to sign in here, and the sign-in of programs that came by a provider's ID token."""

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from gateway.core import signin, users
from gateway.errors import NotFound
from gateway.identity.callers import Callers
from gateway.identity.oidc import Oidc
from gateway.model.auth import AuthView, MungeRequest, MungeToken
from gateway.model.user import Identity, MeView
from gateway.web.context import Gw
from gateway.web.openapi import problems

router = APIRouter(prefix="/auth", tags=["identity"])


class SignInRequest(BaseModel):
    """What the provider gave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id_token: str = Field(description="ID token for the client that `GET /auth` names.", max_length=16384)
    access_token: str | None = Field(None, description="Access token, to ask the provider more.", max_length=16384)


@router.get("", operation_id="getAuth", summary="How to sign in")
async def how(gateway: Gw, request: Request) -> AuthView:
    """Needs no token. Without an issuer there is no identity provider, and tokens are made by `sluice token`."""
    oidc, identity = gateway.settings.identity.oidc, request.state.identity
    munge = identity.munge.view if isinstance(identity, Callers) and identity.munge is not None else None
    if oidc.issuer is None:
        return AuthView(munge=munge)
    return AuthView(
        issuer=oidc.issuer,
        client_id=oidc.cli_client_id or oidc.client_id,
        scopes=tuple(oidc.scopes),
        audience=oidc.audience,
        munge=munge,
    )


@router.post("/munge", operation_id="signInByMunge", summary="Sign in by MUNGE", responses=problems(404, 422, 503))
async def by_munge(request: Request, said: MungeRequest) -> MungeToken:
    """A bearer token of a few minutes for whoever made the credential. Answers 403 while they are not let in."""
    identity = request.state.identity
    if not isinstance(identity, Callers):
        raise NotFound("this gateway does not know people by MUNGE")
    return await identity.by_munge(said.credential)


@router.post("/session", operation_id="signIn", summary="Sign in with an ID token", responses=problems(404, 422, 503))
async def sign_in(gateway: Gw, request: Request, said: SignInRequest) -> MeView:
    """What `sluice login` does at its end: the user is made if they are new, and groups become places in projects.

    Answers 403 while an operator has not let them in. The access token is what later calls carry.
    """
    provider = _provider(request)
    claims = await provider.id_token(said.id_token, nonce=None, access_token=said.access_token, cli=True)
    if said.access_token is not None:
        claims = await provider.userinfo(said.access_token, claims)
    person = await signin.admit(
        gateway, Identity(issuer=provider.issuer, subject=str(claims["sub"])), claims, origin="cli"
    )
    return users.me(person.principal(origin="cli"))


def _provider(request: Request) -> Oidc:
    identity = request.state.identity
    provider = identity.provider if isinstance(identity, Callers) else None
    if provider is None:
        raise NotFound("this gateway has no identity provider", hint="Settings: identity.oidc.issuer.")
    return provider
