# Made from gateway/sdk/_async/audit.py by `python gateway/sdk/generate.py`: change that one.
"""The audit log: who did what, and what was refused."""

import json
from collections.abc import Generator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any, TypedDict, Unpack

from gateway.model.api import Page
from gateway.model.audit import AuditHead, AuditRow, Chain, Decision
from gateway.sdk import wire
from gateway.sdk._sync.transport import Transport


class AuditFilters(TypedDict, total=False):
    """Which rows; None counts as unsaid."""

    who: str | None
    action: str | None
    object: str | None
    session: str | None
    decision: Decision | None
    since: datetime | None
    until: datetime | None


class Audit:
    """Operators see all rows, everybody those of their own doing."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, page_size: int = 100, **filters: Unpack[AuditFilters]) -> Generator[AuditRow, None, None]:
        """All that match, newest first, page by page as they are asked for."""
        cursor: str | None = None
        while True:
            call = wire.get("/audit", limit=page_size, cursor=cursor, **_spelled(filters))
            page = wire.read(Page[AuditRow], self._transport.send(call))
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def export(self, **filters: Unpack[AuditFilters]) -> Generator[dict[str, Any], None, None]:
        """All that match, oldest first, as they are hashed; in constant memory."""
        with closing(self._transport.lines(wire.get("/audit/export", **_spelled(filters)))) as lines:
            for line in lines:
                if line:
                    yield dict(json.loads(line))

    def head(self) -> AuditHead:
        """The newest row's number and hash: keep it elsewhere. Forbidden to all but operators."""
        return wire.read(AuditHead, self._transport.send(wire.get("/audit/head")))

    def verify(self, expect: str | None = None) -> AuditHead:
        """Walk the whole chain, here. AuditBroken names the first broken row, or misses the row with this hash."""
        self.head()  # Forbidden: a part of the rows is no chain
        chain = Chain(expect)
        with closing(self.export()) as rows:
            for row in rows:
                chain.feed(row)
        return chain.end()


def _spelled(filters: AuditFilters) -> Mapping[str, Any]:
    given: Mapping[str, Any] = {**filters}
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in given.items()}
