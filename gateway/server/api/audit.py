"""`/api/v1/audit`: who did what, and what was refused."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime
from starlette.responses import StreamingResponse

from gateway.core import audit
from gateway.errors import Invalid
from gateway.model.api import Page
from gateway.model.audit import AuditHead, AuditQuery, AuditRow, Decision
from gateway.server.api import examples
from gateway.web import streams
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import example, problems

router = APIRouter(prefix="/audit", tags=["audit"])
MAX_PAGE = 500


def filters(
    *,
    who: Annotated[str | None, Query(description="Only of this principal; `system` is the gateway itself.")] = None,
    action: Annotated[str | None, Query(description="Only this action.", examples=["session.create"])] = None,
    object_: Annotated[str | None, Query(alias="object", description="Only of this object, by id or name.")] = None,
    session: Annotated[str | None, Query(description="Only what concerns the session of this id.")] = None,
    decision: Annotated[Decision | None, Query(description="`deny`: only denials.")] = None,
    since: Annotated[AwareDatetime | None, Query(description="From this moment on.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Before this moment.")] = None,
) -> AuditQuery:
    return AuditQuery(
        who=who,
        action=action,
        object=object_,
        session=session,
        decision=decision,
        since=_utc(since),
        until=_utc(until),
    )


def _utc(moment: datetime | None) -> datetime | None:
    try:
        return moment.astimezone(UTC) if moment is not None else None
    except OverflowError:
        raise Invalid(f"{moment} is no moment that there is in UTC", hint="Name it in UTC, or leave it out.") from None


Filters = Annotated[AuditQuery, Depends(filters)]


@router.get(
    "",
    operation_id="listAudit",
    summary="List the rows of the audit log",
    responses={200: example({"items": [examples.AUDIT], "next": None}, "One page."), **problems(422)},
)
async def list_audit(
    gateway: Gw,
    caller: Caller,
    query: Filters,
    *,
    cursor: Annotated[int | None, Query(ge=1, le=streams.MOST, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Rows on one page.")] = 50,
) -> Page[AuditRow]:
    """Newest first. Operators see all rows, everybody those of their own doing."""
    wanted = query.model_copy(update={"cursor": cursor, "limit": limit})
    rows, following = await audit.find(gateway, caller, wanted)
    return Page[AuditRow](items=rows, next=str(following) if following is not None else None)


@router.get(
    "/export",
    operation_id="exportAudit",
    summary="Export the audit log",
    response_class=StreamingResponse,
    responses={
        200: {"description": "A row a line, as JSON, oldest first.", "content": {"application/x-ndjson": {}}},
        **problems(422),
    },
)
async def export(gateway: Gw, caller: Caller, request: Request, query: Filters) -> StreamingResponse:
    """All rows that there are now. Without filters, and for an operator, it is the whole chain and can be verified."""
    return streams.text(request, _lines(audit.export(gateway, caller, query)), kind="application/x-ndjson")


async def _lines(rows: AsyncIterator[AuditRow]) -> AsyncIterator[str]:
    async for row in rows:
        yield row.model_dump_json() + "\n"


@router.get("/head", operation_id="getAuditHead", summary="Get the head of the audit log")
async def head(gateway: Gw, caller: Caller) -> AuditHead:
    """Number and hash of the newest row: kept elsewhere, it proves what was written until now. For operators."""
    return await audit.head(gateway, caller)
