"""How much one caller and one session may ask for at once: bounds in flight, short queues, rates. All in memory.

Rates follow the generic cell rate algorithm (ITU-T I.371): one number a caller, no timers, bursts of a minute's worth.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from gateway.errors import Overloaded, TooMany
from gateway.settings import ProxySettings

_MOST_CALLERS = 65536


class Rate:
    """So many a minute for each caller, in bursts of as many. 0: no limit."""

    def __init__(self, per_minute: int) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._due: dict[str, float] = {}

    def take(self, caller: str, now: float) -> float:
        """Seconds to wait before this one would be taken; 0 if it is taken now."""
        if not self._gap:
            return 0.0
        due = max(self._due.get(caller, now), now)
        wait = due - now - (60 - self._gap)
        if wait > 0:
            return wait
        if len(self._due) >= _MOST_CALLERS:
            self._due = {name: at for name, at in self._due.items() if at > now}
        self._due[caller] = due + self._gap
        return 0.0


class Gate:
    """One session's door: so many requests inside, so many in line before it. `slots` may change with its replicas."""

    __slots__ = ("_line", "inside")

    def __init__(self) -> None:
        self.inside = 0
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._line)

    def enter(self, slots: int) -> bool:
        """Go in, if there is room and nobody is in line."""
        if self.inside >= slots or self._line:
            return False
        self.inside += 1
        return True

    async def wait(self, seconds: float) -> bool:
        """Stand in line for a place; False if none came free in time."""
        place = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            async with asyncio.timeout(seconds):
                await place
        except TimeoutError:
            return self._leave_line(place)
        except asyncio.CancelledError:
            if self._leave_line(place):
                self.leave()
            raise
        return True

    def leave(self) -> None:
        """Give the place to the next in line."""
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.inside -= 1

    def _leave_line(self, place: "asyncio.Future[None]") -> bool:
        """Stop waiting; True if a place was given in the very last moment."""
        if place in self._line:
            self._line.remove(place)
        return place.done() and not place.cancelled()


class Ticket:
    """One request's places: at its caller's door and at its session's. `done` gives them back, once or more often."""

    __slots__ = ("_caller", "_door", "_limits", "admitted")

    def __init__(self, limits: "Limits", caller: str, door: Gate, *, admitted: bool) -> None:
        self._limits, self._caller, self._door = limits, caller, door
        self.admitted = admitted

    async def wait(self) -> None:
        """Stand in line for the session. Overloaded if it takes too long."""
        seconds = self._limits.settings.queue_seconds
        if not await self._door.wait(seconds):
            raise Overloaded(
                f"the session was busy for {seconds:g} seconds", hint="Try again later, or start another replica."
            )
        self.admitted = True

    def done(self) -> None:
        if self.admitted:
            self.admitted = False
            self._door.leave()
        caller, self._caller = self._caller, ""
        if caller:
            self._limits.left(caller)


class Limits:
    """The doors of every session and caller."""

    def __init__(self, settings: ProxySettings) -> None:
        self.settings = settings
        self._rate = Rate(settings.requests_per_minute)
        self._doors: dict[str, Gate] = {}
        self._inside: dict[str, int] = {}

    def enter(self, caller: str, session: str, replicas: int, now: float) -> Ticket:
        """A ticket, perhaps one that has to `wait`. TooMany: the caller asks too much; Overloaded: the line is full."""
        most = self.settings.concurrent_requests
        inside = self._inside.get(caller, 0)
        if most and inside >= most:
            raise TooMany(f"you have {inside} requests under way, which is the most you may have", retry_after=1)
        door = self._doors.get(session)
        if door is None:
            door = self._doors[session] = Gate()
        admitted = door.enter(self.settings.session_in_flight * replicas)
        if not admitted and door.waiting >= self.settings.session_queue:
            raise Overloaded(
                f"the session is busy, and {door.waiting} requests wait for it already",
                hint="Try again later, or start another replica.",
            )
        ticket = Ticket(self, caller, door, admitted=admitted)
        self._inside[caller] = inside + 1
        wait = self._rate.take(caller, now)
        if wait:
            ticket.done()
            raise TooMany(
                f"you may send {self.settings.requests_per_minute} requests a minute", retry_after=max(1, round(wait))
            )
        return ticket

    def left(self, caller: str) -> None:
        """A request of the caller's ended."""
        inside = self._inside[caller] - 1
        if inside:
            self._inside[caller] = inside
        else:
            del self._inside[caller]

    def forget(self, sessions: Sequence[str]) -> None:
        """These sessions ended."""
        for session in sessions:
            door = self._doors.get(session)
            if door is not None and not door.inside and not door.waiting:
                del self._doors[session]
