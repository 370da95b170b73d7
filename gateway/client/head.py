"""The head of a request as a service gets it: nothing of ours in it, and where it came from."""

from collections.abc import Collection

from starlette.types import Scope

from gateway.client.downstream import end_to_end
from gateway.client.http1 import Headers

_FORWARDED_FOR = b"x-forwarded-for"
_OUR_COOKIES = b"__Host-sluice"
_FORWARDED = frozenset({b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-prefix"})
#: Never passed on: our token, the framing that is made anew, and what only the first hop may act on.
_DROPPED = _FORWARDED | {b"authorization", b"content-length", b"expect", b"host", b"x-request-id", _FORWARDED_FOR}


def request_head(
    scope: Scope, target: bytes, *, length: int | None, prefix: str = "", without: Collection[bytes] = ()
) -> bytes:
    """Request line and headers. `length` of the body, None if it is sent in chunks; `prefix` is what was cut off."""
    given: Headers = scope["headers"]
    headers = [*forwarded(scope, prefix), *passed_on(given, without)]
    if length is None:
        headers.append((b"transfer-encoding", b"chunked"))
    elif length or scope["method"] not in {"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"}:
        headers.append((b"content-length", b"%d" % length))
    lines = [b"%b %b HTTP/1.1\r\n" % (scope["method"].encode(), target)]
    lines += [b"%b: %b\r\n" % pair for pair in headers]
    return b"".join(lines) + b"\r\n"


def passed_on(given: Headers, without: Collection[bytes] = ()) -> Headers:
    """The caller's headers that the service may see."""
    kept = [pair for pair in end_to_end(given) if pair[0] not in _DROPPED and pair[0] not in without]
    return [(name, value) for name, value in map(_without_ours, kept) if value or name != b"cookie"]


def _without_ours(pair: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """The cookie of a sign-in is for the gateway: a service that had it could act as its caller."""
    name, value = pair
    if name != b"cookie" or _OUR_COOKIES not in value:
        return pair
    kept = (word.strip() for word in value.split(b";"))
    return name, b"; ".join(word for word in kept if not word.startswith(_OUR_COOKIES))


def forwarded(scope: Scope, prefix: str) -> Headers:
    """Host and `X-Forwarded-*`. A reverse proxy before us said who asked, and how: that is kept."""
    given = {name: value for name, value in scope["headers"] if name in _FORWARDED or name in {b"host", _FORWARDED_FOR}}
    host = given.get(b"host", b"localhost")
    peer = str((scope.get("client") or ("unknown", 0))[0]).encode()
    scheme = b"https" if scope["scheme"] in {"https", "wss"} else b"http"
    headers = [
        (b"host", host),
        (_FORWARDED_FOR, b", ".join(word for word in (given.get(_FORWARDED_FOR), peer) if word)),
        (b"x-forwarded-host", given.get(b"x-forwarded-host", host)),
        (b"x-forwarded-proto", given.get(b"x-forwarded-proto", scheme)),
        (b"x-request-id", scope["state"]["request_id"].encode()),
    ]
    if prefix:
        outer = given.get(b"x-forwarded-prefix", b"").rstrip(b"/")
        headers.append((b"x-forwarded-prefix", outer + prefix.encode()))
    return headers


def content_length(scope: Scope) -> int | None:
    """The length that the request announces; 0 if it has no body, None if it comes in chunks."""
    names = dict(scope["headers"])
    if b"transfer-encoding" in names:
        return None
    return int(names.get(b"content-length", b"0"))
