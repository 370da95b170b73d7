"""Who is calling: the bearer token of a request, and the dependency by which routes get the principal."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Protocol
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from gateway.errors import Unauthenticated
from gateway.model.fixed import forbidden
from gateway.model.principal import Opened, Origin, Principal

COOKIE = "__Host-sluice"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
CHALLENGE = 'Bearer realm="sluice"'
BROWSER_CHALLENGE = 'Basic realm="sluice (any user name, your token as the password)", charset="UTF-8"'


class Identity(Protocol):
    """Whoever can tell callers by what they show."""

    def recall(self, text: str) -> Principal | None:
        """The holder of a token, if that is known here and now, without asking anybody."""

    async def authenticate(self, text: str, origin: Origin = "api") -> Principal:
        """By a token. Unauthenticated if it is nobody's; Forbidden if its holder is not let in."""

    async def by_cookie(self, value: str) -> Principal:
        """By the cookie of a browser that is signed in. Unauthenticated."""

    def recall_opened(self, opened: Opened) -> Principal | None:
        """Who opened a session in a browser, if they are in memory, without asking anybody."""

    async def by_opened(self, opened: Opened) -> Principal:
        """Who opened a session in a browser, as they are now. Unauthenticated, Forbidden."""

    async def by_peer(self, uid: int) -> Principal:
        """By the uid of a process on this machine, which the kernel told. Unauthenticated, Forbidden."""


Headers = Iterable[tuple[bytes, bytes]]


async def authenticate(
    identity: Identity,
    headers: Headers,
    *,
    method: str = "GET",
    browser: bool = False,
    peer: int | None = None,
    forms: bool = False,
) -> Principal:
    """The caller by the Authorization header, else by the cookie of a sign-in, else by the uid of the `peer`.

    With `browser` the token is also taken as the password of HTTP Basic, which a browser asks its user for. A browser
    adds password and cookie to whatever a page of anybody's sends here, so what changes things must then come from
    our own pages; with `forms` they also have to prove that they are ours, see `csrf_of`.
    """
    given = {name: value for name, value in headers if name in _WANTED}
    scheme, _, word = given.get(b"authorization", b"").decode("latin-1").strip().partition(" ")
    cookie = cookie_of(given.get(b"cookie", b""))
    match scheme.lower():
        case "bearer":
            return await identity.authenticate(word.strip(), _ORIGINS.get(given.get(b"x-sluice-origin", b""), "api"))
        case "basic" if browser:
            caller = await identity.authenticate(_password(word), "browser")
            same_origin(given, method)
            return caller
        case "" if cookie is not None:
            same_origin(given, method)
            if forms and method not in SAFE:
                from_our_page(given, cookie, given.get(b"x-csrf-token", b"").decode("latin-1"))
            return await identity.by_cookie(cookie)
        case "" if peer is not None:
            return await identity.by_peer(peer)
        case "":
            raise Unauthenticated(
                "no token was given",
                hint="Send `Authorization: Bearer <token>`; `sluice login` or `sluice env` get you one.",
            )
        case _:
            raise Unauthenticated("only bearer tokens are understood here", hint="`sluice env` prints the token.")


async def still(caller: Principal, ask: Callable[[], Awaitable[Principal]]) -> None:
    """Whether a caller whose answer goes on may still be answered: asked now and then. Unauthenticated, Forbidden."""
    if await ask() != caller:
        raise Unauthenticated("what you may do here has changed", hint="Ask again.")


def shows_something(headers: Headers) -> bool:
    """Whether a request brings what could be tried out: a token, a password, a cookie."""
    return any(name == b"authorization" or (name == b"cookie" and cookie_of(value)) for name, value in headers)


def signed_in_by(headers: Headers) -> str | None:
    """The cookie of a sign-in, if the request brings one."""
    return next((cookie_of(value) for name, value in headers if name == b"cookie"), None)


def recalled(identity: Identity, headers: Headers) -> Principal | None:
    """The caller, if their bearer token is known here and now."""
    word = next((value for name, value in headers if name == b"authorization"), b"").decode("latin-1").strip()
    scheme, _, token = word.partition(" ")
    try:
        return identity.recall(token.strip()) if scheme.lower() == "bearer" else None
    except Unauthenticated:
        return None


_WANTED = frozenset(
    {
        b"authorization",
        b"cookie",
        b"origin",
        b"host",
        b"sec-fetch-site",
        b"sec-websocket-key",
        b"x-csrf-token",
        b"x-sluice-origin",
    }
)
_ORIGINS: Mapping[bytes, Origin] = {b"cli": "cli", b"kubernetes": "kubernetes"}


def cookie_of(header: bytes, name: str = COOKIE) -> str | None:
    """The value of our cookie."""
    for pair in header.decode("latin-1").split(";"):
        found, _, value = pair.strip().partition("=")
        if found == name:
            return value
    return None


def _password(word: str) -> str:
    try:
        return base64.b64decode(word, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Unauthenticated("the Authorization header cannot be read") from error


def same_origin(given: Mapping[bytes, bytes], method: str) -> None:
    """Forbidden for pages of others: browsers name the page's origin with all but plain reads, and every WebSocket.

    Newer ones also say themselves whether the page is of this very origin; that is no header that a page can set.
    """
    if method in SAFE and b"sec-websocket-key" not in given:
        return
    origin = given.get(b"origin")
    cookie = b"authorization" not in given
    foreign = origin is not None and urlsplit(origin).netloc != given.get(b"host")
    if foreign or (origin is None and cookie) or given.get(b"sec-fetch-site", _SAME) != _SAME:
        raise forbidden("fixed-same-origin", "a page of another site may not do this in your name")


_SAME = b"same-origin"


def csrf_of(cookie: str) -> str:
    """What only a page that can read our answers knows of the cookie that its browser sends."""
    return hmac.new(cookie.encode(), b"csrf", hashlib.sha256).hexdigest()


def from_our_page(given: Mapping[bytes, bytes], cookie: str, token: str) -> None:
    """Forbidden unless the browser vouches for the page, or the page shows the token of our answers."""
    if given.get(b"sec-fetch-site") != _SAME and not hmac.compare_digest(token.encode(), csrf_of(cookie).encode()):
        raise forbidden(
            "fixed-same-origin",
            "this does not come from a page of ours",
            "Send the X-CSRF-Token that came with an answer before.",
        )


def caller(request: Request) -> Principal:
    """The principal of this request; it was told before any route was looked at."""
    found: Principal = request.state.caller
    return found


_scheme = HTTPBearer(auto_error=False, description="The token: `sluice env` prints it.")
CallerDep = Depends(caller)
Caller = Annotated[Principal, CallerDep]
#: For routers: shows in OpenAPI that a token is needed.
Documented = Depends(_scheme)
