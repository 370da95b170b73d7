"""What makes requests belong to one replica: how they begin, or whose session they say they are of."""

import hashlib

import msgspec

from gateway.client.choice import Kin
from gateway.client.cookies import NAME
from gateway.client.http1 import RequestHead
from gateway.model.recipe import Affinity
from gateway.web.caller import cookie_of

#: Of the beginning of a request, in bytes: about what a system prompt and a first question are long.
PREFIX = 4096
SESSION_HEADER = b"x-session-id"


_NOTHING = msgspec.Raw(b"")


class _Text(msgspec.Struct):
    prompt: msgspec.Raw = _NOTHING
    messages: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    user: msgspec.Raw = _NOTHING


_TEXT = msgspec.json.Decoder(_Text)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_ROLE = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FIRST = frozenset({b'"system"', b'"developer"'})


def kin(affinity: Affinity, head: RequestHead, caller: str, body: bytes = b"") -> Kin | None:
    """What the request belongs to; None if any replica will do. `body` is one that was read as a request before."""
    match affinity:
        case "prefix":
            start = _start(_TEXT.decode(body)) if body else b""
            return Kin(_digest(start), bounded=True) if start else None
        case "session":
            return Kin(_digest(_session(head, caller, body)), bounded=False)
        case _:
            return None


def kin_of_line(affinity: Affinity, body: bytes) -> Kin | None:
    """The same for a line of a batch. Lines are not one conversation for being asked by one person."""
    if affinity == "session":
        user = bytes(_TEXT.decode(body).user)
        return Kin(_digest(b"u" + user), bounded=False) if user else None
    start = _start(_TEXT.decode(body)) if affinity == "prefix" else b""
    return Kin(_digest(start), bounded=True) if start else None


def _start(text: _Text) -> bytes:
    """The beginning that a conversation keeps: what comes before the first turn of its user, and that turn."""
    if text.messages:
        try:
            messages = _ITEMS.decode(text.messages)
            kept = next((n for n, one in enumerate(messages) if _role(one) not in _FIRST), len(messages))
        except msgspec.DecodeError:
            return bytes(text.messages)[:PREFIX]
        return b"".join(bytes(one) for one in messages[: kept + 1])[:PREFIX]
    return bytes(text.prompt or text.input)[:PREFIX]


def _role(message: msgspec.Raw) -> bytes:
    return bytes(_ROLE.decode(message).get("role", b""))


def _session(head: RequestHead, caller: str, body: bytes) -> bytes:
    """By the header, else the body's user, else the browser, else the caller."""
    if (named := head.fields.get(SESSION_HEADER)) is not None:
        return b"h" + named
    if body and (user := bytes(_TEXT.decode(body).user)):
        return b"u" + user
    if (browser := cookie_of(head.fields.get(b"cookie", b""), NAME)) is not None:
        return b"b" + browser.encode()
    return b"c" + caller.encode()


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()
