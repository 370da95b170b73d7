"""The API's documentation pages, served without anything from the internet."""

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

#: Nothing may be loaded or called but what is ours. The scripts set styles as they go, which no policy is about; the
#: reader puts an empty style sheet into the page first.
_POLICY = (
    "default-src 'none'; script-src 'self' blob: {scripts}; worker-src blob:; style-src 'self' {styles}; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
#: What the reader styles its scroll bars with; tests/web/test_docs.py says if another edition of it has another.
_SCROLL_BARS = "'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='"
#: The reader asks for its maker's logo elsewhere, and has no option for it: it gets an empty picture. The name stays.
_LOGO, _NO_LOGO = (
    "https://cdn.redoc.ly/redoc/logo-mini.svg",
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E",
)
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


def hash_of(text: str) -> str:
    """An inline script or style as a content security policy names it, so that it may be there and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _policy(page: HTMLResponse) -> None:
    """Allow the page the inline scripts and styles that it was made with."""
    text = bytes(page.body).decode()
    scripts = " ".join(map(hash_of, _SCRIPT.findall(text)))
    styles = " ".join([_SCROLL_BARS, *map(hash_of, ["", *_STYLE.findall(text)])])
    page.headers["Content-Security-Policy"] = _POLICY.format(scripts=scripts, styles=styles)


def paths(prefix: str) -> tuple[str, ...]:
    """Where the pages and what they load are: a browser asks for the token there."""
    return (f"{prefix}/docs", f"{prefix}/redoc", f"{prefix}/openapi.json")


def install(app: FastAPI, prefix: str) -> None:
    """Add `<prefix>/docs` (try it out) and `<prefix>/redoc` (read)."""
    assets = f"{prefix}/docs/assets"
    openapi = f"{prefix}/openapi.json"
    static = files("fastapi_offline") / "static"

    @app.get(f"{assets}/redoc.standalone.js", include_in_schema=False)
    async def reader() -> Response:
        text = (static / "redoc.standalone.js").read_text().replace(_LOGO, _NO_LOGO)
        return Response(text, media_type="text/javascript", headers={"Cache-Control": "private, max-age=3600"})

    app.mount(assets, StaticFiles(directory=str(static)), name="docs-assets")

    @app.get(f"{prefix}/docs", include_in_schema=False)
    async def swagger() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url=openapi,
            title=f"{app.title}: try it",
            swagger_js_url=f"{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{assets}/swagger-ui.css",
            swagger_favicon_url=f"{assets}/favicon.png",
            swagger_ui_parameters={"persistAuthorization": True, "displayRequestDuration": True},
        )
        _policy(page)
        return page

    @app.get(f"{prefix}/redoc", include_in_schema=False)
    async def redoc() -> HTMLResponse:
        page = get_redoc_html(
            openapi_url=openapi,
            title=app.title,
            redoc_js_url=f"{assets}/redoc.standalone.js",
            redoc_favicon_url=f"{assets}/favicon.png",
            with_google_fonts=False,
        )
        _policy(page)
        return page
