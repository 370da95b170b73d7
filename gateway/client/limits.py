"""How much callers, tokens, projects and sessions may have at once: bounds in flight, short queues, rates."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

from gateway.client.choice import Choice, Kin, choose, fit, pick
from gateway.client.gates import Gates, Place
from gateway.client.routes import Route
from gateway.client.upstream import Upstream
from gateway.errors import Overloaded, TooMany
from gateway.model.principal import Principal
from gateway.settings import ProxySettings, RequestLimits
from gateway.web.rate import Rate

#: So often who stands in line looks whether there are more replicas than there were.
LOOK_AGAIN = 1.0


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


class Ticket(Place):
    """One request's place at the gates of its sessions, and in the shares of who pays. `done` gives both back, once."""

    __slots__ = ("_limits", "_routes", "_shares")

    def __init__(self, limits: "Limits", routes: Sequence[Route]) -> None:
        super().__init__()
        self._limits, self._routes = limits, routes
        self._shares: Sequence[tuple[Share, str]] = ()

    def charge(self, shares: Sequence[tuple[Share, str]], now: float) -> None:
        """Take from these, until it is `done`."""
        self._shares = shares
        for share, name in shares:
            share.enter(name, now)

    def choose(self, tried: Collection[Upstream], kin: Kin | None) -> Choice | None:
        """Who answers: an endpoint of the session where it is inside, or where there is room, and then it goes there.

        One that was tried only if there is no other anywhere. None if there is none now: `wait` before it is asked for
        again.
        """
        if self.gate is None:
            return None
        if len(self._routes) == 1:
            members = self._routes[0].members
            if len(members) == 1:
                return self._routes[0], members[0]
            return choose(self._routes, tried, asyncio.get_running_loop().time(), kin)
        found = [(self._limits.gates.of(route), (route, member)) for route, member in fit(self._routes, tried)]
        within = [choice for gate, choice in found if gate is self.gate or gate.has_room()]
        if not within:
            return None
        choice = pick(within, asyncio.get_running_loop().time(), kin)
        self.enter(self._limits.gates.of(choice[0]))
        return choice

    async def wait(self, say: Callable[[str], None] = lambda _: None, tried: Collection[Upstream] = ()) -> bool:
        """Stand in line where somebody answers, until it is let in. False: nobody does, and somebody is to be woken.

        Overloaded if it takes too long; as long as all of the sessions start, the time stands still. `say`: words for a
        caller who wants to hear them, while they start.
        """
        if self.gate is not None:
            gates = self._limits.gates.each(route for route, _ in fit(self._routes, tried))
            if not gates or self.gate in gates:
                return bool(gates)
            self.leave()
            self._limits.reported()
        settings, loop = self._limits.settings, asyncio.get_running_loop()
        now = said = loop.time()
        until, last = now + settings.queue_seconds, now + settings.queue_seconds + settings.wake_seconds
        while not self.queue(tried):
            await self.come(min(LOOK_AGAIN, settings.progress_seconds, until - now))
            now = loop.time()
            if not any(route.members for route in self._routes):
                until = min(now + settings.queue_seconds, last)
                if now >= said + settings.progress_seconds:
                    said = now
                    say(f"session {self._routes[0].name} is starting")
            if now >= until and not self.queue(tried):
                raise Overloaded(
                    f"the session was busy for {settings.queue_seconds:g} seconds",
                    hint="Try again later, or start another replica.",
                )
        return True

    def queue(self, tried: Collection[Upstream] = ()) -> bool:
        """Go in where there is room and somebody answers, else stand in line there; whether it is in. Overloaded."""
        if self.gate is not None:
            return True
        routes = self._routes
        if len(routes) > 1:
            routes = [route for route, _ in fit(routes, tried)] or routes
        return self.stand(self._limits.gates.each(routes))

    def done(self) -> None:
        shares, self._shares = self._shares, ()
        self.leave()
        for share, name in shares:
            share.leave(name)


class Limits:
    """The gates of every session, and the shares of every caller, token and project."""

    def __init__(self, settings: ProxySettings, reported: Callable[[], None] = lambda: None) -> None:
        """`reported` hears when somebody begins to stand in line."""
        self.settings, self.reported = settings, reported
        self._caller = Share(
            "you have",
            RequestLimits(
                concurrent_requests=settings.concurrent_requests, requests_per_minute=settings.requests_per_minute
            ),
        )
        self._token = Share("this token has", settings.token)
        self._project = Share("the project has", settings.project, settings.projects)
        self._sharing = any(share.limits for share in (self._caller, self._token, self._project))
        self.gates = Gates(settings)

    def enter(self, caller: Principal, routes: Sequence[Route], now: float) -> Ticket:
        """A ticket, perhaps one that has to `wait`. TooMany: too much is asked for; Overloaded: the line is full."""
        shares = self._shares(caller, routes[0]) if self._sharing else ()
        for share, name in shares:
            share.check(name, now)
        ticket = Ticket(self, routes)
        gate = self.gates.of(routes[0]) if len(routes) == 1 else None
        if gate is not None and gate.has_room():
            ticket.enter(gate)
        elif not ticket.queue():
            self.reported()
        if shares:
            ticket.charge(shares, now)
        return ticket

    def room(self, route: Route) -> bool:
        """Whether one more request would be answered now, and keep nobody waiting."""
        return self.gates.of(route).has_room()

    def waiting(self) -> Mapping[str, int]:
        """Requests in line, by session; one that several sessions may answer counts for each of them."""
        return self.gates.waiting()

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
