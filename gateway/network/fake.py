"""Agents in memory: reachable where a test puts one, nowhere else; those in `waiting` wait for secrets."""

from collections.abc import Mapping

from gateway.core.ports import AgentStatus
from gateway.errors import EndpointUnavailable
from gateway.model.announcement import Endpoint


class FakeAgents:
    """The Agents port over a set of endpoints that are there."""

    def __init__(self) -> None:
        self.there: set[Endpoint] = set()
        self.waiting: set[Endpoint] = set()
        self.given: dict[Endpoint, dict[str, str]] = {}
        self.busy: set[Endpoint] = set()
        self.idle_seconds = 0.0
        self.quiet: dict[str, float] = {}

    async def status(self, endpoint: Endpoint) -> AgentStatus:
        self._reach(endpoint)
        phase = "secrets" if endpoint in self.waiting else "ready"
        busy = endpoint in self.busy
        idle = 0.0 if busy else self.idle_seconds
        return AgentStatus(phase=phase, in_flight=int(busy), idle_seconds=idle, requests=0, quiet=self.quiet)

    async def push(self, endpoint: Endpoint, secrets: Mapping[str, str]) -> None:
        self._reach(endpoint)
        if endpoint not in self.waiting:
            raise EndpointUnavailable("its agent refused: the program has been started already")
        self.waiting.discard(endpoint)
        self.given[endpoint] = dict(secrets)

    def _reach(self, endpoint: Endpoint) -> None:
        if endpoint not in self.there:
            raise EndpointUnavailable(f"{endpoint.host}:{endpoint.port} refuses the connection")
