"""Answers that go on: looked after, so that they end soon after their caller may not have them any more."""

import asyncio
from typing import TYPE_CHECKING

import structlog

from gateway.client.http1 import RequestHead
from gateway.errors import Forbidden, SluiceError, Unauthenticated
from gateway.model.principal import Principal
from gateway.web.streams import LOOK_SECONDS

if TYPE_CHECKING:
    from gateway.client.front import Front
    from gateway.client.plane import Plane

log = structlog.get_logger(__name__)


class Vigil:
    """Looks after the answers of a data plane, streams and WebSockets above all, every LOOK_SECONDS."""

    def __init__(self, plane: "Plane") -> None:
        self._plane = plane

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except SluiceError as error:
                log.warning("answers under way are not looked after", code=error.code, error=error.message)

    async def look(self) -> None:
        """End what may not go on. Everybody is asked for once, however many answers they have under way."""
        known: dict[tuple[object, ...], Principal | SluiceError] = {}
        for front in list(self._plane.fronts):
            head, exchange = front.head, front.going_on
            if head is None or exchange is None:
                continue
            service = self._plane.service(head)
            if service is None:
                continue
            key = (service.name, head.fields.get(b"authorization"), head.fields.get(b"cookie"), front.uid)
            found = known.get(key)
            if found is None:
                found = known[key] = await self._who(front, head)
            if front.head is not head or front.going_on is not exchange:
                continue  # it ended meanwhile
            if isinstance(found, SluiceError):
                front.cut(found)
            elif service.scope not in found.scopes or not service.allows(self._plane, found, exchange.route):
                front.cut(Forbidden("what they may do here has changed"))

    async def _who(self, front: "Front", head: RequestHead) -> Principal | SluiceError:
        service = self._plane.service(head)
        if service is None:
            return Forbidden("there is nothing here any more")
        try:
            return await self._plane.who(front, service, head)
        except (Unauthenticated, Forbidden) as error:
            return error
