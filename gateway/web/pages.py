"""The few plain pages of signing in and out."""

from html import escape
from urllib.parse import urlencode

from starlette.responses import HTMLResponse, RedirectResponse

from gateway.errors import SluiceError
from gateway.model.user import User
from gateway.web.docs import hash_of

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color-scheme:light dark;max-width:36rem;margin:4rem auto;padding:0 1rem}"
)
#: The way out leads to the provider by a redirect, which browsers hold to `form-action`, too.
_POLICY = (
    f"default-src 'none'; style-src {hash_of(_STYLE)}; base-uri 'none'; form-action 'self' https: http:; "
    "frame-ancestors 'none'"
)


def trouble(title: str, error: SluiceError, status: int, *, again: str = "/auth/login") -> HTMLResponse:
    """What went wrong, and what can be done; `again` is the address of another try."""
    hint = f"<p>{escape(_sentence(error.hint))}</p>" if error.hint else ""
    return _page(
        title, f'<p>{escape(_sentence(error.message))}</p>{hint}<p><a href="{again}">Try again</a></p>', status
    )


def first_sign_in(to: str) -> RedirectResponse:
    """For a browser that is nobody's yet: it comes back to this path."""
    return RedirectResponse(f"/auth/login?{urlencode({'to': to})}", 303)


def waiting(user: User) -> HTMLResponse:
    """For who was never let in, or is not any more."""
    if user.state == "pending":
        text = (
            "<p>The provider knows you; this gateway has not let you in yet.</p>"
            f"<p>An operator sees you as <b>{escape(user.name)}</b>. Tell them so, and sign in again afterwards.</p>"
        )
        return _page("Waiting to be let in", text, 403)
    return _page("No entry", "<p>This account is switched off. Ask an operator.</p>", 403)


def ask_to_sign_out(csrf: str) -> HTMLResponse:
    """`csrf`: what shows that the form is ours."""
    field = f'<input type="hidden" name="csrf" value="{escape(csrf)}">'
    return _page("Sign out", f'<form method="post" action="/auth/logout">{field}<button>Sign out</button></form>', 200)


def signed_out() -> HTMLResponse:
    return _page("Signed out", '<p>You are signed out.</p><p><a href="/auth/login">Sign in</a></p>', 200)


def _sentence(text: str) -> str:
    """As a page says it."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _page(title: str, body: str, status: int) -> HTMLResponse:
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)} - Sluice</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>{escape(title)}</h1>{body}'
    )
    # same-origin: without it the browser hides the origin of our own form from us
    headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "same-origin"}
    return HTMLResponse(text, status, headers=headers)
