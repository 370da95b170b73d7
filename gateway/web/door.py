"""What holds for whoever comes in, on every port: who a proxy says they are, who failed too often, which pages may ask.

One of these stands before the frame and before the data plane of a process.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from math import ceil
from typing import Any

from starlette.responses import Response

from gateway.errors import TooMany
from gateway.model.connection_limits import ConnectionLimits
from gateway.settings import ServeSettings
from gateway.web.rate import Rate
from gateway.web.seen import Proxies, Seen

Headers = Iterable[tuple[bytes, bytes]]
Lines = list[tuple[bytes, bytes]]

#: Nothing of an answer is a page but what says so itself: it loads nothing, is framed nowhere and asks for nothing.
SECURITY_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

PREFLIGHT_SECONDS = 600
_METHODS = b"GET, POST, PUT, PATCH, DELETE"
_MAY_SEND = b"authorization, content-type, idempotency-key, last-event-id, x-request-id"
_MAY_READ = b"retry-after, x-request-id, x-sluice-session"
_SAME_NETWORK = 64


class Failures:
    """Who failed to say who they are, by address: after too many they wait, whatever they bring."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute, self._rate = per_minute, Rate(per_minute)

    @property
    def any(self) -> bool:
        """Whether anybody failed not long ago."""
        return self._rate.used

    def check(self, address: str) -> None:
        """TooMany for an address that has none left."""
        if wait := self._rate.wait(_network(address), time.monotonic()):
            raise TooMany(
                f"from your address {self._per_minute} sign-ins or tokens a minute may fail, and so many did",
                retry_after=max(1, ceil(wait)),
            )

    def note(self, address: str) -> None:
        """One more failed."""
        self._rate.take(_network(address), time.monotonic())


def _network(address: str) -> str:
    """Whoever has one address of IPv6 has its whole network."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((found, _SAME_NETWORK), strict=False)) if isinstance(found, IPv6Address) else address


@dataclass(frozen=True)
class Door:
    """The settings under `serve` that every entrance keeps to."""

    proxies: Proxies
    failures: Failures
    origins: frozenset[bytes]
    hsts: bytes
    limits: ConnectionLimits

    @classmethod
    def of(cls, settings: ServeSettings) -> "Door":
        return cls(
            Proxies(settings.trusted_proxies, settings.forwarded_header),
            Failures(settings.failed_sign_ins_per_minute),
            frozenset(origin.encode() for origin in settings.cors_origins),
            b"max-age=%d" % settings.hsts_seconds if settings.hsts_seconds else b"",
            settings.connection,
        )

    def arrive(self, scope: Any) -> None:
        """Say in an ASGI scope who really asks, how, and for which host."""
        client = scope.get("client")
        if client is None or not self.proxies.trusts(client[0]):
            return
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        secure = scope.get("scheme") in {"https", "wss"}
        seen: Seen = self.proxies.seen(client[0], "https" if secure else "http", host, scope["headers"])
        scope["client"] = (seen.address, 0)
        scope["scheme"] = seen.scheme if scope["type"] == "http" else {"https": "wss"}.get(seen.scheme, "ws")
        if seen.host != host:
            kept = [pair for pair in scope["headers"] if pair[0] != b"host"]
            scope["headers"] = [(b"host", seen.host.encode("latin-1")), *kept]

    def strict(self, scheme: str) -> Lines:
        """What a browser that came by HTTPS is told."""
        return [(b"strict-transport-security", self.hsts)] if self.hsts and scheme in {"https", "wss"} else []

    def shared(self, origin: bytes | None) -> Lines:
        """What lets a page of an allowed origin read an answer. It shows a token: cookies are for our own pages."""
        if not self.origins:
            return []
        lines = [(b"vary", b"Origin")]
        if origin in self.origins and origin is not None:
            lines += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _MAY_READ)]
        return lines

    def preflight(self, headers: Headers) -> Response | None:
        """The answer to a browser that asks by OPTIONS whether a page may ask; None if this is no such question."""
        given = dict(headers)
        if b"access-control-request-method" not in given or given.get(b"origin") not in self.origins:
            return None
        response = Response(status_code=204)
        response.raw_headers += [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _MAY_SEND),
            (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
        ]
        return response
