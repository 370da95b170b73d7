"""The answers that are asked for most: a session and a page of sessions, with entity tags, past the framework."""

import re
from collections.abc import Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.reading import Reading, Shown, tag_of

_HEADERS = {"Cache-Control": "private, no-cache"}
_SESSION = re.compile(r"/([A-Za-z0-9-]{1,63})")


def session(shown: Shown, if_none_match: str | None = None) -> Response:
    """A session; 304 without it if the caller has it as it is."""
    return _answer(shown.body, shown.tag, if_none_match)


def page(items: Sequence[Shown], following: str | None, if_none_match: str | None = None) -> Response:
    """A page of sessions; 304 without it if the caller has it as it is."""
    following_json = "null" if following is None else f'"{following}"'
    tag = tag_of(" ".join([*(item.tag for item in items), following_json]).encode())
    if _matches(tag, if_none_match):
        return _answer(b"", tag, if_none_match)
    body = b'{"items":[%b],"next":%b}' % (b",".join(item.body for item in items), following_json.encode())
    return _answer(body, tag, None)


class Quick:
    """An app before the API's: it answers `GET <prefix>/sessions/<ref>` itself and hands on everything else.

    The caller is known by then, as for every route; the framework's work for a request is most of what this saves.
    """

    def __init__(self, app: ASGIApp, reading: Reading, prefix: str) -> None:
        self._app, self._reading = app, reading
        self._below = f"{prefix}/sessions"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if scope["type"] == "http" and scope["method"] == "GET" and path.startswith(self._below):
            named = _SESSION.fullmatch(path, len(self._below))
            if named is not None:
                scope["state"]["route"] = f"{self._below}/{{ref}}"
                given = next((value for name, value in scope["headers"] if name == b"if-none-match"), None)
                shown = await self._reading.one(scope["state"]["caller"], named[1])
                response = session(shown, given.decode("latin-1") if given is not None else None)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _answer(body: bytes, tag: str, if_none_match: str | None) -> Response:
    headers = {**_HEADERS, "ETag": tag}
    if _matches(tag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def _matches(tag: str, if_none_match: str | None) -> bool:
    if if_none_match is None:
        return False
    given = [word.strip().removeprefix("W/") for word in if_none_match.split(",")]
    return "*" in given or tag in given
