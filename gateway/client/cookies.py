"""The cookie of a browser that opened a session: bound to the session and its place, and never shown to its service."""

from gateway.client.http1 import RequestHead
from gateway.identity.seal import Seal
from gateway.model.principal import Opened
from gateway.web.caller import cookie_of, same_origin

NAME = "sluice-session"
_LOOPBACK = ("localhost", "127.", "[::1]")


class Cookies:
    """Made and known again by the gateway's seal, from memory. `hours` is how long one is good for."""

    def __init__(self, seal: Seal, hours: float) -> None:
        self._seal, self._seconds = seal, round(hours * 3600)

    def make(self, head: RequestHead, opened: Opened, prefix: bytes, now: float) -> str:
        """A Set-Cookie for the session at this place; `now` in seconds since the epoch."""
        words = opened.session, opened.owner, opened.token or "", opened.sign_in or ""
        value = self._seal.close("session", *words, str(round(now) + self._seconds))
        local = head.seen.host.startswith(_LOOPBACK)
        secure = "; Secure" if head.seen.scheme == "https" or not local else ""  # plain HTTP is for one's own machine
        path = prefix.decode() + "/"
        return f"{NAME}={value}; Path={path}; Max-Age={self._seconds}; HttpOnly; SameSite=Lax{secure}"

    def opened(self, head: RequestHead, now: float) -> Opened | None:
        """Whom the cookie lets in, and into which session. Forbidden if a page of another origin uses it."""
        value = cookie_of(head.fields.get(b"cookie", b""), NAME)
        words = self._seal.open(value) if value is not None else None
        match words:
            case ["session", session_id, owner, token, sign_in, until] if int(until) > now:
                same_origin(dict(head.said), head.method.decode())
                return Opened(session_id, owner, token or None, sign_in or None)
        return None
