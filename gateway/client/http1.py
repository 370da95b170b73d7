"""The heads of HTTP/1.1 messages: read once, strictly, and written anew for the other side."""

import http
import re
from collections.abc import Callable, Collection, Iterable
from typing import Generic, Self, TypeVar

import httptools

from gateway.client.framing import Chunked, Counted, Frame, Malformed, UntilClose
from gateway.web.limits import MOST_HEADERS
from gateway.web.seen import Seen

END = b"\r\n\r\n"

Headers = list[tuple[bytes, bytes]]

#: Of one connection, not of the message (RFC 9110, 7.6.1).
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"upgrade",
    }
)
_ONCE = (b"host", b"cookie", b"content-length", b"transfer-encoding", b"authorization", b"upgrade")
#: Bodies are passed on as they are framed, whatever a Connection header says.
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host"})
_NO_BODY = frozenset({204, 304})
_LENGTH = b"content-length"
_LENGTH_LINE = re.compile(rb"\r\ncontent-length: ?([0-9]+)\r\n", re.IGNORECASE)
_MOST_DIGITS = 18  # more than that the parser counts itself
UNSEEN = Seen("unknown", "http", "")
SWITCHING = 101


class TooManyHeaders(Malformed):
    """More than anybody needs."""


class _Head:
    """What the parser says of a head; its callbacks are the `on_` methods.

    `made`: for what is made of it whatever its body's length is, and whichever request it belongs to.
    """

    __slots__ = ("fields", "headers", "made", "whole")

    def __init__(self) -> None:
        self.headers: Headers = []
        self.fields: dict[bytes, bytes] = {}
        self.whole = False
        self.made: dict[str, bytes] = {}

    def again(self, length: bytes) -> Self:
        """The same head, of another message, whose body has this length; it shares what was `made` of the first."""
        new = type(self).__new__(type(self))
        new.headers, new.fields, new.whole, new.made = self.headers, self.fields, True, self.made
        if length and self.fields[_LENGTH] != length:
            new.headers = [(name, length if name == _LENGTH else value) for name, value in self.headers]
            new.fields = {**self.fields, _LENGTH: length}
        return new

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.whole = True

    @property
    def closes(self) -> bool:
        """Whether `Connection: close` was said."""
        return b"close" in self._words(b"connection")

    def _words(self, wanted: bytes) -> set[bytes]:
        """A list header's words."""
        return {word.strip().lower() for name, value in self.headers if name == wanted for word in value.split(b",")}

    def end_to_end(self, without: Collection[bytes] = ()) -> Headers:
        """The headers that go on to the other side."""
        named = b"connection" in self.fields
        own = HOP_BY_HOP | (self._words(b"connection") - _FRAMING) if named else HOP_BY_HOP
        return [pair for pair in self.headers if pair[0] not in own and pair[0] not in without]


class RequestHead(_Head):
    """A request's head. `target` as it was sent, `path` without its query. Malformed if it is none of HTTP/1.x.

    `seen` is who asks, how and for which host; the front says it. `length` is the body's in bytes: 0 if there is none,
    None if it comes in chunks. TooManyHeaders.
    """

    __slots__ = ("id", "keeps_alive", "length", "method", "path", "query", "seen", "target", "version")

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.target = b""
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            raise Malformed(str(error)) from error
        self.version: str = parser.get_http_version()
        self.method: bytes = parser.get_method()
        self.fields = dict(self.headers)
        self.path, _, self.query = self.target.partition(b"?")
        self.id = b""
        self.seen = UNSEEN
        self.length = self._check()
        self.keeps_alive = self.version == "1.1" and not (b"connection" in self.fields and self.closes)

    def again(self, length: bytes) -> Self:
        new = super().again(length)
        new.target, new.path, new.query = self.target, self.path, self.query
        new.version, new.method, new.seen, new.id = self.version, self.method, self.seen, b""
        new.length, new.keeps_alive = int(length) if length else self.length, self.keeps_alive
        return new

    def on_url(self, url: bytes) -> None:
        self.target += url

    def _check(self) -> int | None:
        """The length of the body."""
        if not self.whole or self.version not in {"1.1", "1.0"} or self.method == b"CONNECT":
            raise Malformed("this is no request of HTTP/1.1")
        if len(self.headers) > MOST_HEADERS:
            raise TooManyHeaders(f"there are more than {MOST_HEADERS} headers")
        if len(self.fields) != len(self.headers):
            names = [name for name, _ in self.headers]
            twice = next((name for name in _ONCE if names.count(name) > 1), None)
            if twice is not None:
                raise Malformed(f"the header {twice.decode()} stands there twice")
        if self.version == "1.1" and b"host" not in self.fields:
            raise Malformed("there is no Host")
        coding = self.fields.get(b"transfer-encoding")
        if coding is None:
            return int(self.fields.get(b"content-length", b"0"))
        if coding.lower() != b"chunked" or self.version == "1.0":
            raise Malformed("only Transfer-Encoding: chunked is understood")
        return None

    @property
    def said(self) -> Headers:
        """The headers as the caller sent them: a proxy may have given the request another host."""
        host = self.seen.host.encode("latin-1")
        if not self.seen.proxied or host == self.fields.get(b"host"):
            return self.headers
        return [(b"host", host), *(pair for pair in self.headers if pair[0] != b"host")]

    @property
    def is_websocket(self) -> bool:
        upgrade = self.fields.get(b"upgrade", b"").lower() == b"websocket"
        return upgrade and self.method == b"GET" and b"upgrade" in self._words(b"connection")

    def frame(self) -> Frame:
        """The framing of the body."""
        return Chunked(trailers=False) if self.length is None else Counted(self.length)

    def lines(self, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The head for another server, with this target and these headers, but for the empty line at its end."""
        first = b"%b %b HTTP/%b\r\n" % (self.method, target, self.version.encode())
        return first + lines(headers)


class ResponseHead(_Head):
    """An answer's head. Malformed if it is none of HTTP/1.x."""

    __slots__ = ("keeps_alive", "status")

    def __init__(self, data: bytes) -> None:
        super().__init__()
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            raise Malformed(str(error)) from error
        if not self.whole:
            raise Malformed("this is no answer of HTTP/1.1")
        self.status: int = parser.get_status_code()
        self.fields = dict(self.headers)
        self.keeps_alive = parser.get_http_version() == "1.1" and not (b"connection" in self.fields and self.closes)

    def again(self, length: bytes) -> Self:
        new = super().again(length)
        new.status, new.keeps_alive = self.status, self.keeps_alive
        return new

    def frame(self, method: bytes) -> Frame:
        """The framing of the body of an answer to this method."""
        if method == b"HEAD" or self.status in _NO_BODY:
            return Counted(0)
        if b"transfer-encoding" in self.fields:
            if self.fields[b"transfer-encoding"].lower() != b"chunked":
                raise Malformed("only Transfer-Encoding: chunked is understood")
            return Chunked(trailers=True)
        length = self.fields.get(b"content-length")
        return UntilClose() if length is None else Counted(int(length))


H = TypeVar("H", bound=_Head)


class Heads(Generic[H]):
    """Reads the heads that come from one side. A program's are all the same but for the body's length: parsed once."""

    __slots__ = ("_after", "_before", "_last", "_parse", "_text")

    def __init__(self, parse: Callable[[bytes], H]) -> None:
        self._parse = parse
        self._text = self._before = self._after = b""
        self._last: H | None = None

    def read(self, text: bytes) -> H:
        """The head; its text is all up to the empty line, and that. Malformed, TooManyHeaders."""
        last, at = self._last, len(self._before)
        if last is not None:
            if text == self._text:
                return last.again(last.fields.get(_LENGTH, b""))
            if at and text.startswith(self._before) and text.endswith(self._after):
                digits = text[at : len(text) - len(self._after)]
                if digits.isdigit() and len(digits) <= _MOST_DIGITS:
                    self._last, self._text = last.again(digits), text
                    return self._last
        self._last = None
        self._last, self._text = self._parse(text), text
        found = _LENGTH_LINE.search(text)
        self._before, self._after = (text[: found.start(1)], text[found.end(1) :]) if found else (b"", b"")
        return self._last


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    found = _LINES.get(status)
    return found if found is not None else b"HTTP/1.1 %d \r\n" % status


_LINES = {code.value: b"HTTP/1.1 %d %b\r\n" % (code.value, code.phrase.encode()) for code in http.HTTPStatus}


def answer(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> bytes:
    """An answer's head with these headers, and a body that is at hand."""
    return status_line(status) + lines(headers) + b"\r\n" + body


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers, a line each."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])
