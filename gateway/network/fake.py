"""Agents in memory: reachable where a test puts one, nowhere else."""

from gateway.core.ports import AgentStatus
from gateway.errors import EndpointUnavailable
from gateway.model.announcement import Endpoint


class FakeAgents:
    """The Agents port over a set of endpoints that are there."""

    def __init__(self) -> None:
        self.there: set[Endpoint] = set()

    async def status(self, endpoint: Endpoint) -> AgentStatus:
        if endpoint not in self.there:
            raise EndpointUnavailable(f"{endpoint.host}:{endpoint.port} refuses the connection")
        return AgentStatus(phase="ready", in_flight=0, idle_seconds=0, requests=0)
