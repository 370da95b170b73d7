"""The audit log: who did what, and what was refused."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any, TypedDict, Unpack

from gateway.model.api import Page
from gateway.model.audit import AuditHead, AuditRow, Chain, Decision
from gateway.sdk import wire
from gateway.sdk._async.transport import AsyncTransport


class AuditFilters(TypedDict, total=False):
    """Which rows; None counts as unsaid."""

    who: str | None
    action: str | None
    object: str | None
    session: str | None
    decision: Decision | None
    since: datetime | None
    until: datetime | None


class AsyncAudit:
    """Operators see all rows, everybody those of their own doing."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self, *, page_size: int = 100, **filters: Unpack[AuditFilters]) -> AsyncGenerator[AuditRow, None]:
        """All that match, newest first, page by page as they are asked for."""
        cursor: str | None = None
        while True:
            call = wire.get("/audit", limit=page_size, cursor=cursor, **_spelled(filters))
            page = wire.read(Page[AuditRow], await self._transport.send(call))
            for row in page.items:
                yield row
            cursor = page.next
            if cursor is None:
                return

    async def export(self, **filters: Unpack[AuditFilters]) -> AsyncGenerator[dict[str, Any], None]:
        """All that match, oldest first, as they are hashed; in constant memory."""
        async with aclosing(self._transport.lines(wire.get("/audit/export", **_spelled(filters)))) as lines:
            async for line in lines:
                if line:
                    yield dict(json.loads(line))

    async def head(self) -> AuditHead:
        """The newest row's number and hash: keep it elsewhere. Forbidden to all but operators."""
        return wire.read(AuditHead, await self._transport.send(wire.get("/audit/head")))

    async def verify(self, expect: str | None = None) -> AuditHead:
        """Walk the whole chain, here. AuditBroken names the first broken row, or misses the row with this hash."""
        await self.head()  # Forbidden: a part of the rows is no chain
        chain = Chain(expect)
        async with aclosing(self.export()) as rows:
            async for row in rows:
                chain.feed(row)
        return chain.end()


def _spelled(filters: AuditFilters) -> Mapping[str, Any]:
    given: Mapping[str, Any] = {**filters}
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in given.items()}
