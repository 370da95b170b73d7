"""How much callers, tokens, projects and sessions may have at once: bounds in flight, short queues, rates."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from gateway.client.routes import Route
from gateway.errors import Overloaded, TooMany
from gateway.model.principal import Principal
from gateway.settings import ProxySettings, RequestLimits
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


class Share:
    """What each of a kind (callers, tokens, projects) may have under way, and send a minute. 0: no limit.

    `own`: those that have limits of their own.
    """

    def __init__(
        self, words: str, limit: RequestLimits, own: Mapping[str, RequestLimits] = MappingProxyType({})
    ) -> None:
        self._words = words
        self._limit, self._own = limit, own
        self._rate = Rate(limit.requests_per_minute)
        self._rates = {name: Rate(one.requests_per_minute) for name, one in own.items()}
        self._inside: dict[str, int] = {}
        self.limits = any(one.concurrent_requests or one.requests_per_minute for one in (limit, *own.values()))

    def check(self, name: str, now: float) -> None:
        """TooMany, with the time when to come back."""
        limit = self._own.get(name, self._limit)
        inside = self._inside.get(name, 0)
        if limit.concurrent_requests and inside >= limit.concurrent_requests:
            raise TooMany(f"{self._words} {inside} requests under way, which is the most there may be", retry_after=1)
        if wait := self._rates.get(name, self._rate).wait(name, now):
            raise TooMany(
                f"{self._words} the {limit.requests_per_minute} requests behind it that there may be in a minute",
                retry_after=max(1, round(wait)),
            )

    def enter(self, name: str, now: float) -> None:
        self._inside[name] = self._inside.get(name, 0) + 1
        self._rates.get(name, self._rate).take(name, now)

    def leave(self, name: str) -> None:
        inside = self._inside[name] - 1
        if inside:
            self._inside[name] = inside
        else:
            del self._inside[name]


class Ticket:
    """One request's places: at its session's door, and in the shares of who pays. `done` gives them back, once."""

    __slots__ = ("_door", "_key", "_limits", "_place", "_shares")

    def __init__(self, limits: "Limits", key: str, door: Gate, slots: int, shares: Sequence[tuple[Share, str]]) -> None:
        self._limits, self._key, self._shares = limits, key, shares
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
        for share, name in self._shares:
            share.leave(name)
        self._limits.left(self._key, door)


class Limits:
    """The doors of every session, and the shares of every caller, token and project."""

    def __init__(self, settings: ProxySettings, reported: Callable[[], None] = lambda: None) -> None:
        """`reported` hears when somebody begins to stand in line."""
        self.settings, self._reported = settings, reported
        self._caller = Share(
            "you have",
            RequestLimits(
                concurrent_requests=settings.concurrent_requests, requests_per_minute=settings.requests_per_minute
            ),
        )
        self._token = Share("this token has", settings.token)
        self._project = Share("the project has", settings.project, settings.projects)
        self._sharing = any(share.limits for share in (self._caller, self._token, self._project))
        self._doors: dict[str, Gate] = {}

    def enter(self, caller: Principal, routes: Sequence[Route], now: float) -> Ticket:
        """A ticket, perhaps one that has to `wait`. TooMany: too much is asked for; Overloaded: the line is full."""
        route = routes[0]
        if len(routes) == 1:
            key, slots = route.id, self._slots(route)
        else:
            key, slots = f"model:{route.model}", sum(map(self._slots, routes))
        door = self._doors.get(key) or Gate()
        if door.inside >= slots:
            most = self.settings.session_queue if route.service.max_queue is None else route.service.max_queue
            if door.waiting >= most:
                raise Overloaded(
                    f"the session is busy, and {door.waiting} requests wait for it already",
                    hint="Try again later, or start another replica.",
                )
        shares = self._shares(caller, route) if self._sharing else ()
        for share, name in shares:
            share.check(name, now)
        for share, name in shares:
            share.enter(name, now)
        self._doors[key] = door
        ticket = Ticket(self, key, door, slots, shares)
        if not ticket.admitted:
            self._reported()
        return ticket

    def room(self, routes: Sequence[Route]) -> bool:
        """Whether one more request would be answered now, and keep nobody waiting."""
        slots = sum(map(self._slots, routes))
        keys = [routes[0].id] if len(routes) == 1 else [f"model:{routes[0].model}", *(route.id for route in routes)]
        doors = [door for key in keys if (door := self._doors.get(key)) is not None]
        return not any(door.waiting for door in doors) and sum(door.inside for door in doors) < slots

    def waiting(self, session: str) -> int:
        """Requests in line for a session."""
        door = self._doors.get(session)
        return door.waiting if door is not None else 0

    def left(self, key: str, door: Gate) -> None:
        """A request ended."""
        if not door.inside and not door.waiting:
            self._doors.pop(key, None)

    def _slots(self, route: Route) -> int:
        """Requests that a session's replicas answer at once. One that starts will have a replica."""
        most = route.service.max_in_flight or self.settings.session_in_flight
        return most * (len(route.members) or 1)

    def _shares(self, caller: Principal, route: Route) -> list[tuple[Share, str]]:
        """Of whom something is taken: only those that have a limit."""
        found = []
        if self._caller.limits:
            found.append((self._caller, caller.name))
        if self._token.limits and caller.token is not None:
            found.append((self._token, caller.token))
        if self._project.limits:
            found.append((self._project, route.project))
        return found
