"""Signing in and out in a browser: authorization code with PKCE, and the provider's two ways of signing out.

What a browser gets is a cookie with 256 random bits; the database holds their digest. A sign-in that is under way is
bound to its browser by a cookie of its own, so that nobody can be signed in as somebody else.
"""

import hmac
import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import structlog
from fastapi import Request
from sqlalchemy import Connection
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.core import audit, signin
from gateway.core.context import Gateway
from gateway.errors import Invalid, NotFound, SluiceError, Unauthenticated
from gateway.identity.callers import Callers
from gateway.identity.oidc import Oidc
from gateway.model.token import digest
from gateway.model.user import Identity
from gateway.store import signins, users
from gateway.store.signins import Browser, SignIn
from gateway.web import context, pages
from gateway.web.app import Part, api
from gateway.web.caller import COOKIE, cookie_of, csrf_of, from_our_page, same_origin
from gateway.web.context import Gw
from gateway.web.errors import status_of

log = structlog.get_logger(__name__)

PREFIX = "/auth"
PATHS = ("login", "callback", "logout", "backchannel", "frontchannel", "signed-out")
UNDER_WAY = "__Host-sluice-signin"
PATIENCE = timedelta(minutes=10)
LONGEST = 1000
MAX_BODY = 1 << 16


def part(gateway: Gateway) -> Part:
    """The pages as a part of a frame; what they need of a caller they look at themselves."""
    app = api(title="Sluice sign-in", prefix=PREFIX)
    context.hold(app, gateway)
    for path, methods, endpoint in (
        ("login", ["GET"], login),
        ("callback", ["GET"], callback),
        ("logout", ["GET", "POST"], logout),
        ("backchannel", ["POST"], backchannel),
        ("frontchannel", ["GET"], frontchannel),
        ("signed-out", ["GET"], signed_out),
    ):
        app.add_api_route(f"{PREFIX}/{path}", endpoint, methods=methods, include_in_schema=False, response_model=None)
    return Part(
        name="sign-in",
        prefixes=(PREFIX,),
        app=app,
        open=frozenset(f"{PREFIX}/{path}" for path in PATHS),
        guarded=frozenset(f"{PREFIX}/{path}" for path in ("callback", "backchannel", "frontchannel")),
        max_body=MAX_BODY,
        shared=False,
    )


async def login(gateway: Gw, request: Request, to: str = "/") -> Response:
    """To the provider, with what must come back."""
    try:
        provider = _provider(request)
        state, nonce, browser, verifier = (secrets.token_urlsafe(32) for _ in range(4))
        address = await provider.address(_redirect(gateway, request), state=state, nonce=nonce, verifier=verifier)
    except SluiceError as error:
        return pages.trouble("You cannot sign in now", error, status_of(type(error)))
    now = gateway.clock()
    begun = SignIn(
        state=digest(state), nonce=nonce, verifier=verifier, browser=digest(browser), to=_ours(to), created_at=now
    )
    await gateway.db.write(lambda connection: signins.begin(connection, begun, older_than=now - PATIENCE))
    answer = RedirectResponse(address, 303)
    _set(answer, UNDER_WAY, browser, int(PATIENCE.total_seconds()))
    return answer


async def callback(gateway: Gw, request: Request) -> Response:
    """Back from the provider: signed in, waiting to be let in, or told why not."""
    try:
        return await _finish(gateway, request)
    except SluiceError as error:
        log.info("sign-in failed", code=error.code, error=error.message)
        request.state.refused = error
        peer = request.client.host if request.client is not None else ""
        told = audit.by_nobody(gateway, "browser")
        audit.refused(gateway, told, error, "sign.in", "user", place=peer, details={"from": peer})
        return pages.trouble("You are not signed in", error, status_of(type(error)))


async def _finish(gateway: Gateway, request: Request) -> Response:
    provider, query = _provider(request), request.query_params
    begun = await gateway.db.write(signins.take, digest(query.get("state", "")))
    cookie = cookie_of(request.headers.get("cookie", "").encode("latin-1"), UNDER_WAY) or ""
    if begun is None or gateway.clock() > begun.created_at + PATIENCE:
        raise Unauthenticated("this sign-in was not begun here, or it took too long", hint="Begin again.")
    if not hmac.compare_digest(begun.browser, digest(cookie)):
        raise Unauthenticated("this sign-in was begun in another browser", hint="Begin again.")
    if query.get("iss", provider.issuer) != provider.issuer:
        raise Unauthenticated("the answer comes from another provider")
    if "error" in query:
        raise Unauthenticated(f"the provider says: {query.get('error_description') or query['error']}")
    redirect = _redirect(gateway, request)
    claims, id_token = await provider.exchange(
        query.get("code", ""), redirect=redirect, verifier=begun.verifier, nonce=begun.nonce
    )
    identity = Identity(issuer=provider.issuer, subject=str(claims["sub"]))
    person = await signin.admit(gateway, identity, claims, origin="browser")
    if person.user.state != "active":
        return pages.waiting(person.user)
    answer = RedirectResponse(begun.to, 303)
    await _remember(gateway, provider, answer, person.user.id, claims, id_token)
    answer.delete_cookie(UNDER_WAY, path="/", secure=True, httponly=True, samesite="lax")
    return answer


async def logout(gateway: Gw, request: Request) -> Response:
    """Signed out here and at the provider. Only from a page of ours, so that no other can do it."""
    cookie = cookie_of(request.headers.get("cookie", "").encode("latin-1"))
    if request.method == "GET":
        return pages.ask_to_sign_out(csrf_of(cookie)) if cookie else pages.signed_out()
    given = {name: value for name, value in request.headers.raw if name != b"authorization"}
    same_origin(given, request.method)
    if cookie is not None:
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        from_our_page(given, cookie, next(iter(form.get("csrf", [])), ""))
    answer: Response = RedirectResponse(f"{PREFIX}/signed-out", 303)
    if cookie is not None:
        key = digest(cookie)
        browser = await gateway.db.read(signins.by_cookie, key)
        told = audit.by_nobody(gateway, "browser")

        def write(connection: Connection) -> None:
            signins.end(connection, key)
            if browser is not None:
                person = users.person_of(connection, browser.user_id)
                audit.record(connection, audit.known(told, person.user), "sign.out", "user", person.user.name)

        await gateway.db.write(write)
        if browser is not None and (address := await _end_session(gateway, request, browser)):
            answer = RedirectResponse(address, 303)
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


async def backchannel(gateway: Gw, request: Request) -> Response:
    """The provider says that somebody signed out. What is signed for us is believed, nothing else."""
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    claims = await _provider(request).logout_token(next(iter(form.get("logout_token", [])), ""))
    subject, sid = (str(claims[name]) if claims.get(name) else None for name in ("sub", "sid"))
    issuer = str(claims["iss"])
    ended = await _end_there(gateway, issuer, subject=subject, sid=sid)
    log.info("signed out by the provider", browsers=ended)
    return Response(status_code=200, headers={"Cache-Control": "no-store"})


async def frontchannel(gateway: Gw, request: Request, iss: str = "", sid: str = "") -> Response:
    """The provider's page loads this in a frame when somebody signs out there; its session id is a secret."""
    provider = _provider(request)
    if iss != provider.issuer or not sid:
        raise Invalid("issuer and session id must be named")
    await _end_there(gateway, iss, subject=None, sid=sid)
    frame = f"default-src 'none'; frame-ancestors {urlsplit(provider.issuer)._replace(path='').geturl()}"
    return HTMLResponse("<!doctype html><title>Signed out</title>", headers={"Content-Security-Policy": frame})


async def _end_there(gateway: Gateway, issuer: str, *, subject: str | None, sid: str | None) -> int:
    """The provider ended a session of its own; how many browsers were signed in by it."""
    told = audit.by_nobody(gateway, "browser")

    def write(connection: Connection) -> int:
        ended = signins.end_at_provider(connection, issuer, subject=subject, sid=sid)
        if ended:
            said: audit.Details = {"by": issuer, "browsers": ended}
            audit.record(connection, told, "sign.out", "user", subject or "", details=said)
        return ended

    return await gateway.db.write(write)


async def signed_out() -> Response:
    return pages.signed_out()


async def _remember(
    gateway: Gateway, provider: Oidc, answer: Response, user_id: str, claims: Mapping[str, Any], id_token: str
) -> None:
    cookie, now = secrets.token_urlsafe(32), gateway.clock()
    life = timedelta(hours=provider.settings.session_hours)
    browser = Browser(
        digest=digest(cookie),
        user_id=user_id,
        issuer=provider.issuer,
        subject=str(claims["sub"]),
        sid=str(claims["sid"]) if claims.get("sid") else None,
        id_token=id_token,
        created_at=now,
        expires_at=now + life,
    )
    await gateway.db.write(signins.add, browser)
    _set(answer, COOKIE, cookie, int(life.total_seconds()))


async def _end_session(gateway: Gateway, request: Request, browser: Browser) -> str | None:
    """Where a browser signs out at the provider; None if it has no such place, or cannot be asked."""
    try:
        provider = _provider(request)
        metadata = await provider.discovery.metadata()
    except SluiceError:
        return None
    if metadata.end_session_endpoint is None:
        return None
    asked = {
        "client_id": provider.settings.client_id,
        "id_token_hint": browser.id_token,
        "post_logout_redirect_uri": f"{_base(gateway, request)}{PREFIX}/signed-out",
    }
    return f"{metadata.end_session_endpoint}?{urlencode(asked)}"


def _provider(request: Request) -> Oidc:
    identity = request.state.identity
    provider = identity.provider if isinstance(identity, Callers) else None
    if provider is None:
        raise NotFound("this gateway has no identity provider", hint="Settings: identity.oidc.issuer.")
    return provider


def _base(gateway: Gateway, request: Request) -> str:
    """The gateway's address as the browser sees it. The provider knows the right ones and refuses all others."""
    told = gateway.settings.identity.oidc.public_url
    return (told or f"{request.url.scheme}://{request.headers.get('host', '')}").rstrip("/")


def _redirect(gateway: Gateway, request: Request) -> str:
    return f"{_base(gateway, request)}{PREFIX}/callback"


def _ours(to: str) -> str:
    """A path of this gateway: nobody is sent elsewhere from here."""
    plain = to.startswith("/") and not to.startswith(("//", "/\\")) and to.isprintable() and len(to) < LONGEST
    return to if plain and not urlsplit(to).netloc else "/"


def _set(answer: Response, name: str, value: str, seconds: int) -> None:
    """Lax, because the way back from the provider starts at another site."""
    answer.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")
