"""The answers that are asked for most: a session and a page of sessions, with entity tags, past the framework."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.reading import Reading, Shown, tag_of
from gateway.model.session import Phase
from gateway.store.sessions import SessionQuery

_HEADERS = {"Cache-Control": "private, no-cache"}
_SESSION = re.compile(r"/([A-Za-z0-9-]{1,63})")
_LABEL = r"^[A-Za-z0-9._/-]{1,63}=.{0,255}$"
MAX_PAGE = 500
PhaseWord = Literal["requested", "queued", "starting", "ready", "running", "stopping", "succeeded", "failed", "stopped"]


class Listing(BaseModel):
    """The parameters of a list."""

    model_config = ConfigDict(frozen=True)

    phase: PhaseWord | None = Field(None, description="Only in this phase.")
    ended: bool | None = Field(None, description="Only live ones (false) or ended ones (true).")
    recipe: str | None = Field(None, description="Only of this recipe.")
    name: str | None = Field(None, description="Only of this name.")
    project: str | None = Field(None, description="Only of this project.")
    cluster: str | None = Field(None, description="Only on this cluster.")
    label: list[Annotated[str, StringConstraints(pattern=_LABEL)]] | None = Field(
        None, description="Only with this label, `name=value`; several must all be there.", examples=["experiment=42"]
    )
    cursor: str | None = Field(None, description="`next` of the page before.", pattern=r"^[0-9A-HJKMNP-TV-Z]{26}$")
    limit: int = Field(50, ge=1, le=MAX_PAGE, description="Sessions on one page.")

    def query(self) -> SessionQuery:
        phase = Phase.READY if self.phase == "running" else Phase(self.phase) if self.phase else None
        given = self.model_dump(exclude={"phase", "label"})
        return SessionQuery(**given, phase=phase, labels=dict(pair.split("=", 1) for pair in self.label or ()))


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
    """An app before the API's: it answers `GET <prefix>/sessions[/<ref>]` itself and hands on everything else.

    The caller is known by then, as for every route; the framework's work for a request is most of what this saves.
    """

    def __init__(self, app: ASGIApp, reading: Reading, prefix: str) -> None:
        self._app, self._reading = app, reading
        self._below = f"{prefix}/sessions"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        quick = scope["type"] == "http" and scope["method"] == "GET" and path.startswith(self._below)
        response = await self._read(scope, path) if quick else None
        await (self._app if response is None else response)(scope, receive, send)

    async def _read(self, scope: Scope, path: str) -> Response | None:
        state, given = (
            scope["state"],
            next((value for name, value in scope["headers"] if name == b"if-none-match"), None),
        )
        if_none_match = given.decode("latin-1") if given is not None else None
        if path == self._below:
            asked = _asked(scope["query_string"])
            if asked is None:
                return None
            state["route"] = self._below
            return page(*await self._reading.page(state["caller"], asked.query()), if_none_match)
        named = _SESSION.fullmatch(path, len(self._below))
        if named is None:
            return None
        state["route"] = f"{self._below}/{{ref}}"
        return session(await self._reading.one(state["caller"], named[1]), if_none_match)


def _asked(words: bytes) -> Listing | None:
    """None if it is not right: the framework says what is wrong with it."""
    pairs = parse_qsl(words.decode("latin-1"), keep_blank_values=True)
    given: dict[str, Any] = dict(pairs)
    if "label" in given:
        given["label"] = [value for name, value in pairs if name == "label"]
    try:
        return Listing.model_validate(given)
    except ValidationError:
        return None


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
