"""Policies: what is in force, and why something would be allowed or not."""

from collections.abc import Sequence

from gateway.model.api import Page
from gateway.model.policy import CheckRequest, Decision, FileCheck, PolicyPage, PolicyProblem
from gateway.sdk import wire
from gateway.sdk._async.transport import AsyncTransport


class AsyncPolicies:
    """Who may do what, as the site says it."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self) -> PolicyPage:
        """Those in force, and what is wrong with files that were changed since."""
        return wire.read(PolicyPage, await self._transport.send(wire.get("/policies")))

    async def schema(self) -> str:
        """What policies can speak of, as Cedar has it."""
        return (await self._transport.send(wire.get("/policies/schema"))).text

    async def check(self, question: CheckRequest) -> Decision:
        """Whether it would be allowed, and by which policies; nothing is done."""
        return wire.read(Decision, await self._transport.send(wire.ask("/policies/check", question)))

    async def validate(self, file: FileCheck) -> Sequence[PolicyProblem]:
        """What is wrong with a file of policies; it does not come into force."""
        found = wire.read(Page[PolicyProblem], await self._transport.send(wire.ask("/policies/validate", file)))
        return found.items
