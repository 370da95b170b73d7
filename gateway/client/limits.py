"""How much one caller and one session may ask for at once: bounds in flight, short queues, rates. All in memory."""

import asyncio
from collections import deque

from gateway.errors import Overloaded, TooMany
from gateway.settings import ProxySettings
from gateway.web.rate import Rate


class Gate:
    """One session's door: so many requests inside, the others in line before it."""

    __slots__ = ("_line", "inside")

    def __init__(self) -> None:
        self.inside = 0
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._line)

    def enter(self, slots: int) -> "asyncio.Future[None] | None":
        """Go in; or a place in line, which is done when it is this one's turn. `slots` may change with the replicas."""
        while self._line and self.inside < slots:  # there are more places than there were
            self.inside += 1
            self.leave()
        if self.inside < slots:
            self.inside += 1
            return None
        place = asyncio.get_running_loop().create_future()
        self._line.append(place)
        return place

    def leave(self) -> None:
        """Give the place inside to the next in line."""
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.inside -= 1

    def give_up(self, place: "asyncio.Future[None]") -> None:
        """Leave the line, or the place inside that was given in the very last moment."""
        if place.done() and not place.cancelled():
            self.leave()
        elif place in self._line:
            self._line.remove(place)


class Ticket:
    """One request's places: at its caller's door and at its session's. `done` gives them back, once or more often."""

    __slots__ = ("_caller", "_door", "_limits", "_place", "_session")

    def __init__(self, limits: "Limits", caller: str, session: str, door: Gate, slots: int) -> None:
        self._limits, self._caller, self._session = limits, caller, session
        self._door: Gate | None = door
        self._place = door.enter(slots)

    @property
    def admitted(self) -> bool:
        return self._place is None

    async def wait(self) -> None:
        """Stand in line for the session. Overloaded if it takes too long."""
        seconds = self._limits.settings.queue_seconds
        if self._place is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._place
        except TimeoutError as error:
            raise Overloaded(
                f"the session was busy for {seconds:g} seconds", hint="Try again later, or start another replica."
            ) from error
        self._place = None

    def done(self) -> None:
        door, self._door = self._door, None
        if door is None:
            return
        if self._place is None:
            door.leave()
        else:
            door.give_up(self._place)
        self._limits.left(self._caller, self._session, door)


class Limits:
    """The doors of every session and caller."""

    def __init__(self, settings: ProxySettings) -> None:
        self.settings = settings
        self._rate = Rate(settings.requests_per_minute)
        self._doors: dict[str, Gate] = {}
        self._inside: dict[str, int] = {}

    def enter(self, caller: str, session: str, replicas: int, now: float) -> Ticket:
        """A ticket, perhaps one that has to `wait`. TooMany: the caller asks too much; Overloaded: the line is full."""
        most, slots = self.settings.concurrent_requests, self.settings.session_in_flight * replicas
        inside = self._inside.get(caller, 0)
        if most and inside >= most:
            raise TooMany(f"you have {inside} requests under way, which is the most you may have", retry_after=1)
        door = self._doors.get(session) or Gate()
        if door.inside >= slots and door.waiting >= self.settings.session_queue:
            raise Overloaded(
                f"the session is busy, and {door.waiting} requests wait for it already",
                hint="Try again later, or start another replica.",
            )
        wait = self._rate.take(caller, now)
        if wait:
            raise TooMany(
                f"you may send {self.settings.requests_per_minute} requests a minute", retry_after=max(1, round(wait))
            )
        self._doors[session] = door
        self._inside[caller] = inside + 1
        return Ticket(self, caller, session, door, slots)

    def waiting(self, session: str) -> int:
        """Requests in line for a session."""
        door = self._doors.get(session)
        return door.waiting if door is not None else 0

    def left(self, caller: str, session: str, door: Gate) -> None:
        """A request of the caller's ended."""
        inside = self._inside[caller] - 1
        if inside:
            self._inside[caller] = inside
        else:
            del self._inside[caller]
        if not door.inside and not door.waiting:
            self._doors.pop(session, None)
