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
    """The endpoint for a request; one that was tried, or fails, only if there is no other. None if there is none."""
    every = [(route, member) for route in routes for member in route.members]
    left = [pair for pair in every if pair[1] not in tried] or every
    if not left:
        return None
    best = min(member.health.rank for _, member in left)
    fit = [pair for pair in left if pair[1].health.rank == best]
    if len(fit) == 1:
        return fit[0]
    if kin is None:
        return _least(fit, now)
    fit.sort(key=lambda pair: _weight(kin.key, pair[1].tag), reverse=True)
    if not kin.bounded:
        return fit[0]
    share = MOST_UNFAIR * (1 + sum(member.health.in_flight for _, member in fit)) / len(fit)
    room = (pair for pair in fit if pair[1].health.load(now) <= math.ceil(share))
    return next(room, None) or _least(fit, now)


def _least(fit: Sequence[Choice], now: float) -> Choice:
    """The least busy one; of equals, the one that was asked longest ago."""
    return min(fit, key=lambda pair: (pair[1].health.load(now), pair[1].health.last_used))


def _weight(key: bytes, tag: bytes) -> bytes:
    return hashlib.blake2b(tag, key=key, digest_size=8).digest()
