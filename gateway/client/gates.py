"""One gate a session: so many requests inside, the others in line before it, or before the gates of several at once."""

import asyncio
import itertools
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence

from gateway.client.routes import Route
from gateway.errors import Overloaded
from gateway.settings import ProxySettings

_numbers = itertools.count(1)


class Gate:
    """One session's. `line`: those who wait before it, who came first at its head; none of them while there is room."""

    __slots__ = ("_settings", "inside", "line", "route")

    def __init__(self, route: Route, settings: ProxySettings) -> None:
        self.route, self._settings = route, settings
        self.inside = 0
        self.line: list[Place] = []

    @property
    def slots(self) -> int:
        """Requests that the session's replicas answer at once. One that starts will have a replica."""
        route = self.route
        return (route.service.max_in_flight or self._settings.session_in_flight) * (len(route.members) or 1)

    @property
    def full(self) -> bool:
        """Whether nobody more may stand in line."""
        most = self.route.service.max_queue
        return len(self.line) >= (self._settings.session_queue if most is None else most)

    def has_room(self) -> bool:
        """Whether one more may go in. As replicas come there are more places: those in line are let in first."""
        if self.line:
            self.admit()
        return self.inside < self.slots

    def admit(self) -> None:
        """Let in who stands in line, as far as there is room."""
        while self.line and self.inside < self.slots:
            self.line[0].enter(self)

    def leave(self) -> None:
        """Somebody inside goes: the next in line comes, if there is room then."""
        self.inside -= 1
        if self.line:
            self.admit()


class Place:
    """Where one request is: inside a gate, in line before some, or nowhere, as one that has left."""

    __slots__ = ("_comes", "_lines", "gate", "number")

    def __init__(self) -> None:
        self.gate: Gate | None = None
        self._lines: Sequence[Gate] = ()
        self.number = 0  # by which those in line are in order, wherever they stand
        self._comes: asyncio.Future[None] | None = None

    def enter(self, gate: Gate) -> None:
        """Go in there; and out of the lines, or of where it was inside."""
        before, self.gate = self.gate, gate
        if before is gate:
            return
        gate.inside += 1
        if before is not None:
            before.leave()
        if self._lines:
            self._stand(())
        if self._comes is not None and not self._comes.done():
            self._comes.set_result(None)

    def stand(self, gates: Sequence[Gate]) -> bool:
        """Go in where there is room, else stand in line before all of these and no others; whether it is inside.

        Who stood in line before has kept its turn. Overloaded if it stands in no line, and all of these are full.
        """
        for gate in gates:
            room = gate.has_room()  # by which it may have been let in itself
            if room and self.gate is None:
                self.enter(gate)
        if self.gate is not None:
            return True
        open_ones = [gate for gate in gates if gate in self._lines or not gate.full]
        if not open_ones and not self.number:
            raise Overloaded(
                f"the session is busy, and {len(gates[0].line)} requests wait for it already",
                hint="Try again later, or start another replica.",
            )
        self.number = self.number or next(_numbers)
        self._stand(open_ones or gates)
        return False

    def leave(self) -> None:
        """Give back what it has, a place inside or in line: as often as one likes."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.leave()
        if self._lines:
            self._stand(())

    async def come(self, seconds: float) -> None:
        """Return when it has been let in, or after so long."""
        if self.gate is None:
            self._comes = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._comes}, timeout=max(seconds, 0))
            self._comes = None

    def _stand(self, gates: Sequence[Gate]) -> None:
        before, self._lines = self._lines, gates
        for gate in before:
            if gate not in gates:
                gate.line.remove(self)
        for gate in gates:
            if gate not in before:
                insort(gate.line, self, key=_turn)


def _turn(place: Place) -> int:
    return place.number


class Gates:
    """The gates of every session."""

    def __init__(self, settings: ProxySettings) -> None:
        self._settings = settings
        self._gates: dict[str, Gate] = {}

    def of(self, route: Route) -> Gate:
        gate = self._gates.get(route.id)
        if gate is None:
            gate = self._gates[route.id] = Gate(route, self._settings)
        elif gate.route is not route:
            gate.route = route
        return gate

    def each(self, routes: Iterable[Route]) -> list[Gate]:
        """Those of some sessions, each of them once."""
        return [self.of(route) for route in dict.fromkeys(routes)]

    def forget(self) -> None:
        """Those that nobody is at; to be called now and then."""
        self._gates = {name: gate for name, gate in self._gates.items() if gate.inside or gate.line}

    def waiting(self) -> Mapping[str, int]:
        """Requests in line, by session; one that several sessions may answer counts for each of them."""
        return {name: len(gate.line) for name, gate in self._gates.items() if gate.line}
