"""The head of a request as a service gets it: nothing of ours in it, and where it came from."""

from collections.abc import Collection

from gateway.client.http1 import Headers, RequestHead

_FORWARDED_FOR = b"x-forwarded-for"
_OUR_COOKIES = (b"__Host-sluice", b"sluice-session=")
#: Never passed on: our token, what is said anew, and what only the first hop may act on.
DROPPED = frozenset(
    {
        b"authorization",
        b"expect",
        b"forwarded",
        b"host",
        b"x-request-id",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-prefix",
        _FORWARDED_FOR,
    }
)


def headers(head: RequestHead, *, prefix: bytes = b"", without: Collection[bytes] = DROPPED) -> Headers:
    """The caller's headers without ours, with Host and `X-Forwarded-*`; `prefix` is what was cut off the path.

    Who asked, and how, is what the connection says, or a proxy that the site trusts: never what a caller says.
    """
    given, seen = head.fields, head.seen
    told = [
        (b"host", given.get(b"host", b"localhost")),
        (_FORWARDED_FOR, seen.address.encode()),
        (b"x-forwarded-host", seen.host.encode("latin-1") or b"localhost"),
        (b"x-forwarded-proto", seen.scheme.encode()),
    ]
    if prefix:
        before = given.get(b"x-forwarded-prefix", b"").rstrip(b"/") if seen.proxied else b""
        told.append((b"x-forwarded-prefix", before + prefix))
    kept = head.end_to_end(without)
    if b"sluice" in given.get(b"cookie", b""):
        kept = [pair for pair in map(_without_ours, kept) if pair[1] or pair[0] != b"cookie"]
    return told + kept


def closing(head: RequestHead) -> bytes:
    """The end of a head: what is this request's alone."""
    return b"x-request-id: %b\r\n\r\n" % head.id


def _without_ours(pair: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """The cookie of a sign-in is for the gateway: a service that had it could act as its caller."""
    name, value = pair
    if name != b"cookie":
        return pair
    words = (word.strip() for word in value.split(b";"))
    return name, b"; ".join(word for word in words if not word.startswith(_OUR_COOKIES))
