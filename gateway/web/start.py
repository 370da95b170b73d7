"""The start page of the all-in-one gateway: what is where."""

from collections.abc import Mapping

from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.errors import SluiceError, Unauthenticated
from gateway.web import pages
from gateway.web.app import Part, as_problem, product_version
from gateway.web.docs import hash_of

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Sluice</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color-scheme: light dark }}
body {{ max-width: 42rem; margin: 3rem auto; padding: 0 1rem }}
td {{ padding: .2rem 1rem .2rem 0; vertical-align: top }} code {{ font-size: .95em }}
</style>
<h1>Sluice {version}</h1>
<p>Recipes become Slurm jobs, and jobs become sessions that you can use.</p>
<table>
<tr><td><a href="/api/v1/docs">/api/v1/docs</a><td>Try the API.
<tr><td><a href="/api/v1/redoc">/api/v1/redoc</a><td>Read about the API.
<tr><td><code>/api/v1</code><td>Sessions, recipes, images, clusters.
<tr><td><code>/v1</code><td>Models, as OpenAI's API offers them.
<tr><td><code>/s/&lt;session&gt;/</code><td>A session's own pages.
<tr><td><code>/logs/sessions/&lt;session&gt;</code><td>What a session writes.
<tr><td><a href="/audit">/audit</a><td>Who did what, and what was refused.
<tr><td><code>/monitoring/metrics</code><td>Sessions and clusters, for Prometheus.
<tr><td><code>/metrics</code><td>This process, for Prometheus.
</table>
<p>Everything needs the token: <code>Authorization: Bearer …</code>, or as the password that the browser asks for.
<code>sluice env</code> prints it.</p>
</html>
"""


async def _page(scope: Scope, receive: Receive, send: Send) -> None:
    page = _PAGE.format(version=product_version())
    style = page.partition("<style>")[2].partition("</style>")[0]
    policy = (
        f"default-src 'none'; style-src {hash_of(style)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    await HTMLResponse(page, headers={"Content-Security-Policy": policy})(scope, receive, send)


def part(*, signs_in: bool = False) -> Part:
    """The page as a part of a frame: it owns `/` and nothing below. With `signs_in`, browsers are sent there first."""

    def render(error: SluiceError, where: Mapping[str, str]) -> Response:
        if isinstance(error, Unauthenticated) and signs_in:
            return pages.first_sign_in("/")
        return as_problem(error, where)

    return Part(
        name="start",
        prefixes=("/",),
        app=_page,
        browser=lambda path: path == "/",
        max_body=0,
        shared=False,
        render=render,
    )
