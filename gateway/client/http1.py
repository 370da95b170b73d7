"""The heads of HTTP/1.1 messages: read once, strictly, and written anew for the other side."""

import http
from collections.abc import Collection, Iterable

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
SWITCHING = 101


class TooManyHeaders(Malformed):
    """More than anybody needs."""


class _Head:
    """What the parser says of a head; its callbacks are the `on_` methods."""

    __slots__ = ("headers", "whole")

    def __init__(self) -> None:
        self.headers: Headers = []
        self.whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.whole = True

    @property
    def closes(self) -> bool:
        """Whether `Connection: close` was said."""
        return b"close" in self._words(b"connection")

    @property
    def _connection(self) -> bool:
        return any(name == b"connection" for name, _ in self.headers)

    def _words(self, wanted: bytes) -> set[bytes]:
        """A list header's words."""
        return {word.strip().lower() for name, value in self.headers if name == wanted for word in value.split(b",")}

    def end_to_end(self, without: Collection[bytes] = ()) -> Headers:
        """The headers that go on to the other side."""
        own = HOP_BY_HOP | (self._words(b"connection") - _FRAMING) if self._connection else HOP_BY_HOP
        return [pair for pair in self.headers if pair[0] not in own and pair[0] not in without]


class RequestHead(_Head):
    """A request's head. `target` as it was sent, `path` without its query. Malformed if it is none of HTTP/1.x.

    `seen` is who asks, how and for which host; the front says it. TooManyHeaders.
    """

    __slots__ = ("fields", "id", "method", "path", "query", "seen", "target", "version")

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
        self.seen = Seen("unknown", "http", self.fields.get(b"host", b"").decode("latin-1"))
        self._check()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def _check(self) -> None:
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
        if self.coding is not None and (self.coding.lower() != b"chunked" or self.version == "1.0"):
            raise Malformed("only Transfer-Encoding: chunked is understood")

    @property
    def said(self) -> Headers:
        """The headers as the caller sent them: a proxy may have given the request another host."""
        host = self.seen.host.encode("latin-1")
        if not self.seen.proxied or host == self.fields.get(b"host"):
            return self.headers
        return [(b"host", host), *(pair for pair in self.headers if pair[0] != b"host")]

    @property
    def coding(self) -> bytes | None:
        return self.fields.get(b"transfer-encoding")

    @property
    def keeps_alive(self) -> bool:
        return self.version == "1.1" and not (b"connection" in self.fields and self.closes)

    @property
    def length(self) -> int | None:
        """Of the body; 0 if there is none, None if it comes in chunks."""
        return int(self.fields.get(b"content-length", b"0")) if self.coding is None else None

    @property
    def is_websocket(self) -> bool:
        upgrade = self.fields.get(b"upgrade", b"").lower() == b"websocket"
        return upgrade and self.method == b"GET" and b"upgrade" in self._words(b"connection")

    def frame(self) -> Frame:
        """The framing of the body."""
        length = self.length
        return Chunked(trailers=False) if length is None else Counted(length)

    def lines(self, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The head for another server, with this target and these headers."""
        first = b"%b %b HTTP/%b\r\n" % (self.method, target, self.version.encode())
        return first + b"".join([b"%b: %b\r\n" % pair for pair in headers]) + b"\r\n"


class ResponseHead(_Head):
    """An answer's head. Malformed if it is none of HTTP/1.x."""

    __slots__ = ("fields", "keeps_alive", "status")

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


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    found = _LINES.get(status)
    return found if found is not None else b"HTTP/1.1 %d \r\n" % status


_LINES = {code.value: b"HTTP/1.1 %d %b\r\n" % (code.value, code.phrase.encode()) for code in http.HTTPStatus}


def answer(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> bytes:
    """An answer's head with these headers, and a body that is at hand."""
    return status_line(status) + b"".join([b"%b: %b\r\n" % pair for pair in headers]) + b"\r\n" + body
