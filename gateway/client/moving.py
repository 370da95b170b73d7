"""A service's answers put under its session's place: redirects, cookies, and what would speak for the whole origin."""

import re
from urllib.parse import urlsplit

from gateway.client.http1 import Headers

_COOKIE_PATH = re.compile(rb";\s*path=([^;]*)", re.IGNORECASE)
_COOKIE_DOMAIN = re.compile(rb";\s*domain=[^;]*", re.IGNORECASE)
#: What speaks for the whole origin, which is the gateway's and not one session's.
_FOR_THE_ORIGIN = frozenset({b"service-worker-allowed", b"clear-site-data", b"strict-transport-security", b"alt-svc"})
_OURS = (b"sluice-session=", b"__Host-sluice")
_TOUCHED = _FOR_THE_ORIGIN | {b"location", b"content-location", b"set-cookie"}


def moved(headers: Headers, prefix: bytes, host: bytes) -> Headers:
    """An answer's headers with the service's own root put under `prefix`, unless it did so itself.

    Without a prefix the session is an origin of its own: only its cookies are kept from other sessions.
    """
    if not any(name in _TOUCHED for name, _ in headers):
        return headers
    kept = [pair for pair in headers if not _of_the_gateway(*pair, prefix)]
    return [(name, _moved(name, value, prefix, host)) for name, value in kept]


def _of_the_gateway(name: bytes, value: bytes, prefix: bytes) -> bool:
    """What only the gateway may say."""
    return name == b"set-cookie" and value.lstrip().startswith(_OURS) if name not in _FOR_THE_ORIGIN else bool(prefix)


def _moved(name: bytes, value: bytes, prefix: bytes, host: bytes) -> bytes:
    if name == b"set-cookie":
        value = _COOKIE_DOMAIN.sub(b"", value)
        return _moved_cookie(value, prefix) if prefix else value
    if prefix and name in {b"location", b"content-location"}:
        return _moved_location(value, prefix, host)
    return value


def _moved_location(value: bytes, prefix: bytes, host: bytes) -> bytes:
    parts = urlsplit(value)
    ours = not parts.netloc or parts.netloc == host
    if not ours or not parts.path.startswith(b"/") or _below(parts.path, prefix):
        return value
    return parts._replace(scheme=b"", netloc=b"", path=prefix + parts.path).geturl()


def _moved_cookie(value: bytes, prefix: bytes) -> bytes:
    """A cookie belongs to its session: without a path, or with one outside, a browser would show it to others."""
    found = _COOKIE_PATH.search(value)
    path = found[1].strip() if found else b"/"
    if _below(path, prefix):
        return value
    kept = _COOKIE_PATH.sub(b"", value)
    return kept + b"; Path=" + prefix + (path if path.startswith(b"/") else b"/")


def _below(path: bytes, prefix: bytes) -> bool:
    return path == prefix or path.startswith(prefix + b"/")
