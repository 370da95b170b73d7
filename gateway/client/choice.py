"""Which endpoint answers a request: of those that are fit, the least busy one, or the one that its kind belongs to.

Where kinds of requests belong to endpoints, rendezvous hashing says to which: every process finds the same one without
asking, and an endpoint that comes or goes moves only its own share.
"""

import hashlib
import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.client.routes import Route
    from gateway.client.upstream import Upstream

#: An endpoint gets what belongs to it until it has so many times its fair share; then the next in order does.
MOST_UNFAIR = 1.25
Choice = tuple["Route", "Upstream"]


class Kin:
    """Requests with the same `key` belong together. `bounded`: but no endpoint gets too many of them."""

    __slots__ = ("bounded", "key")

    def __init__(self, key: bytes, *, bounded: bool) -> None:
        self.key, self.bounded = key, bounded


def choose(
    routes: Sequence["Route"], tried: Collection["Upstream"], now: float, kin: Kin | None = None
) -> Choice | None:
    """The endpoint for a request; None if there is none."""
    found = fit(routes, tried)
    return pick(found, now, kin) if found else None


def fit(routes: Sequence["Route"], tried: Collection["Upstream"]) -> list[Choice]:
    """Those to choose from: the fittest that there are; those that were tried, or fail, only if there are no others."""
    every = [(route, member) for route in routes for member in route.members]
    left = [pair for pair in every if pair[1] not in tried] or every
    best = min((member.health.rank for _, member in left), default=0)
    return [pair for pair in left if pair[1].health.rank == best]


def pick(found: Sequence[Choice], now: float, kin: Kin | None) -> Choice:
    """One of these, of which there is one at least."""
    if len(found) == 1:
        return found[0]
    if kin is None:
        return _least(found, now)
    in_order = sorted(found, key=lambda pair: _weight(kin.key, pair[1].tag), reverse=True)
    if not kin.bounded:
        return in_order[0]
    share = MOST_UNFAIR * (1 + sum(member.health.in_flight for _, member in found)) / len(found)
    room = (pair for pair in in_order if pair[1].health.load(now) <= math.ceil(share))
    return next(room, None) or _least(found, now)


def _least(fit: Sequence[Choice], now: float) -> Choice:
    """The least busy one; of equals, the one that was asked longest ago."""
    return min(fit, key=lambda pair: (pair[1].health.load(now), pair[1].health.last_used))


def _weight(key: bytes, tag: bytes) -> bytes:
    return hashlib.blake2b(tag, key=key, digest_size=8).digest()
