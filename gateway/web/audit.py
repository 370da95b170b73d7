"""The audit log as a page: filters, a table, and older rows by a link. Everybody sees the rows that are theirs."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import parse_qsl, urlencode

from pydantic import ValidationError
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core import audit
from gateway.core.context import Gateway
from gateway.errors import Invalid, NotFound, SluiceError, Unauthenticated
from gateway.model.audit import AuditHead, AuditQuery, AuditRow
from gateway.web import pages, streams
from gateway.web.app import Part
from gateway.web.docs import hash_of
from gateway.web.errors import status_of

PATH = "/audit"
ROWS = 100
_LONGEST = 500
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;color-scheme:light dark;margin:2rem;max-width:110rem}"
    "form{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:end;margin:1rem 0}"
    "label{display:grid;font-size:.85em;gap:.15rem}input,select,button{font:inherit;padding:.2rem .4rem}"
    "table{border-collapse:collapse;width:100%}"
    "th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #8884}"
    "td{overflow-wrap:anywhere}td:nth-child(-n+2),td:nth-child(4),td:last-child{white-space:nowrap}"
    "td:last-child p{white-space:normal;min-width:20rem}"
    ".deny,.refuse{font-weight:600}.deny{color:light-dark(#a11,#f88)}"
    "code,summary{font-size:.85em}nav{display:flex;gap:1.5rem;margin:1rem 0}"
)
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src {hash_of(_STYLE)}; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
#: The filters of the form: name, label, kind of input.
_FILTERS = (
    ("who", "Who", "text"),
    ("action", "Action", "text"),
    ("object", "Object", "text"),
    ("session", "Session", "text"),
    ("since", "Since (UTC)", "datetime-local"),
    ("until", "Until (UTC)", "datetime-local"),
)
_DECISIONS = ("", "allow", "deny", "refuse")
_COLUMNS = ("Row", "When (UTC)", "Who", "Action", "Object", "Decision", "Policy", "Outcome", "Request", "")


def part(gateway: Gateway) -> Part:
    """The page as a part of a frame: it owns `/audit`. A browser that is nobody's is sent to sign in, where it can."""
    signs_in = gateway.settings.identity.oidc.issuer is not None

    def render(error: SluiceError, where: Mapping[str, str]) -> Response:
        del where
        if isinstance(error, Unauthenticated) and signs_in:
            return pages.first_sign_in(PATH)
        return pages.trouble("The audit log", error, status_of(type(error)), again=PATH)

    return Part(
        name="audit page",
        prefixes=(PATH,),
        app=_app(gateway),
        browser=lambda path: path == PATH,
        max_body=0,
        shared=False,
        render=render,
    )


def _app(gateway: Gateway) -> ASGIApp:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != PATH:
            raise NotFound(f"there is nothing at {scope['path']}", hint=f"The page is {PATH}.")
        if scope["method"] not in {"GET", "HEAD"}:
            raise Invalid("the audit log is read, and nothing else")
        caller = scope["state"]["caller"]
        given = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        query = asked(given)
        rows, following = await audit.find(gateway, caller, query)
        head = await audit.head(gateway, caller) if caller.everywhere else None
        text = shown(rows, given, following, head)
        await HTMLResponse(text, headers=_HEADERS)(scope, receive, send)

    return page


def asked(given: Mapping[str, str]) -> AuditQuery:
    """The query of a form: what is empty is not asked. Times without a zone are UTC. Invalid."""
    names = {name for name, _, _ in _FILTERS} | {"decision", "cursor"}
    said: dict[str, Any] = {
        name: value.strip()[:_LONGEST].replace("\0", "")
        for name, value in given.items()
        if name in names and value.strip()
    }
    try:
        for name in {"since", "until"} & said.keys():
            moment = datetime.fromisoformat(said[name])
            said[name] = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        query = AuditQuery.model_validate({**said, "limit": ROWS})
    except (ValidationError, ValueError, OverflowError) as error:
        raise Invalid("this filter cannot be read", hint="Times are written 2026-01-31T12:00.") from error
    if query.cursor is not None and not 0 < query.cursor <= streams.MOST:
        raise Invalid("there is no such page", hint="Begin with the newest rows.")
    return query


def shown(rows: Sequence[AuditRow], given: Mapping[str, str], following: int | None, head: AuditHead | None) -> str:
    """The page. `head` is there for operators alone; all others see rows of their own doing."""
    whose = "Rows of your own doing." if head is None else f"All rows. Newest: {head.id} <code>{head.hash}</code>"
    lines = "".join(_line(row) for row in rows) or f'<tr><td colspan="{len(_COLUMNS)}">There are no such rows.'
    heads = "".join(f"<th>{name}" for name in _COLUMNS)
    links = [f'<a href="{PATH}">All</a>']
    if given.get("cursor"):
        links.append(_link("Newest", {name: value for name, value in given.items() if name != "cursor"}))
    if following is not None:
        links.append(_link("Older", {**given, "cursor": str(following)}))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>The audit log - Sluice</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>The audit log</h1>'
        f"<p>{whose}</p>{_form(given)}<table><thead><tr>{heads}<tbody>{lines}</table><nav>{''.join(links)}</nav></html>"
    )


def _form(given: Mapping[str, str]) -> str:
    fields = "".join(
        f'<label>{label}<input type="{kind}" name="{name}" value="{escape(given.get(name, ""))}"></label>'
        for name, label, kind in _FILTERS
    )
    options = "".join(
        f'<option value="{word}"{" selected" if given.get("decision", "") == word else ""}>{word or "any"}</option>'
        for word in _DECISIONS
    )
    choice = f'<label>Decision<select name="decision">{options}</select></label>'
    return f'<form method="get" action="{PATH}">{fields}{choice}<button>Show</button></form>'


def _line(row: AuditRow) -> str:
    who = f"{_filter('who', row.who) if row.who else 'nobody known'} <small>{row.kind}, {row.origin}</small>"
    what = escape(f"{row.object_kind} {row.object}".strip())
    if row.session is not None:
        what = (
            f"{what} {_filter('session', row.session, 'session')}"
            if row.session != row.object
            else _filter("session", row.session, what)
        )
    outcome = escape(row.outcome + (f": {row.reason}" if row.reason else ""))
    more = {
        "project": row.project,
        "job": row.job_id,
        "token": row.token,
        **row.details,
        "hash": row.hash,
    }
    details = "<br>".join(f"{escape(str(name))}: {escape(str(value))}" for name, value in more.items() if value)
    cells = (
        str(row.id),
        f"{row.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
        who,
        _filter("action", row.action),
        what,
        f'<span class="{row.decision}">{row.decision}</span>',
        escape(row.policy),
        outcome,
        f"<code>{escape(row.request_id or '')}</code>",
        f"<details><summary>more</summary><p>{details}</p></details>",
    )
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells)


def _filter(name: str, value: str, label: str | None = None) -> str:
    """A value that is a link to the rows with the same."""
    return _link(label if label is not None else escape(value), {name: value})


def _link(label: str, query: Mapping[str, str]) -> str:
    """`label` is HTML."""
    return f'<a href="{PATH}?{escape(urlencode(query))}">{label}</a>' if query else f'<a href="{PATH}">{label}</a>'
