"""The lines of a batch: what each asks for, and what becomes of it. Pure; every fault names its line.

A line is a request as OpenAI's Batch API has it (`custom_id`, `method`, `url`, `body`), or the body alone, whose fields
say what is asked (`messages`, `prompt`, `input`), or a text in quotation marks, which is said to a chat model.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from gateway.model.task import ENDPOINTS, MOST_FAULTS, LineFault

_CHAT, _COMPLETIONS, _EMBEDDINGS, _ = ENDPOINTS
_LONGEST_ID = 512
_BAD = 400


class Request(NamedTuple):
    """What a line asks for. `model`: as it names it, perhaps not at all."""

    custom_id: str
    endpoint: str
    model: str
    body: bytes


class BadLine(Exception):
    """The line cannot be asked."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


class Kind(NamedTuple):
    """What holds for all lines. `endpoint`: every line asks for this; empty: each says.

    `targeted`: one session answers, so that no line need name a model.
    """

    endpoint: str = ""
    targeted: bool = False


_ABSENT = msgspec.Raw()


class _Envelope(msgspec.Struct):
    url: str
    body: msgspec.Raw
    custom_id: str
    method: str = "POST"


class _Body(msgspec.Struct):
    model: str = ""
    stream: object = None
    store: bool | None = None
    background: bool | None = None
    messages: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT


class _Shape(msgspec.Struct):
    """Which fields tell a request from a mere body."""

    custom_id: msgspec.Raw = _ABSENT
    url: msgspec.Raw = _ABSENT
    body: msgspec.Raw = _ABSENT


_SHAPE = msgspec.json.Decoder(_Shape)
_ENVELOPE = msgspec.json.Decoder(_Envelope)
_BODY = msgspec.json.Decoder(_Body)


def read(number: int, raw: bytes, kind: Kind) -> Request:
    """What a line asks for. BadLine."""
    try:
        if raw.lstrip().startswith(b'"'):
            text = msgspec.json.decode(raw, type=str)
            raw = msgspec.json.encode({"messages": [{"role": "user", "content": text}]})
        shape = _SHAPE.decode(raw)
        if not any(map(bytes, (shape.custom_id, shape.url, shape.body))):
            return _simple(number, raw, kind)
        return _whole(_ENVELOPE.decode(raw), kind)
    except msgspec.ValidationError as error:
        field = str(error).rpartition("$.")[2].rstrip("`") if "$." in str(error) else None
        raise BadLine("invalid_request", f"it is no request: {error}", field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadLine("invalid_json_line", f"it is not JSON: {error}") from error


def _whole(line: _Envelope, kind: Kind) -> Request:
    if not line.custom_id or len(line.custom_id) > _LONGEST_ID:
        raise BadLine("invalid_custom_id", f"custom_id: 1 to {_LONGEST_ID} characters", "custom_id")
    if line.method != "POST":
        raise BadLine("invalid_method", "method: it must be POST", "method")
    if line.url not in ENDPOINTS:
        raise BadLine("invalid_url", f"url: one of {', '.join(ENDPOINTS)}", "url")
    if kind.endpoint and line.url != kind.endpoint:
        raise BadLine("mismatched_endpoint", f"url: this batch asks for {kind.endpoint}", "url")
    _, model = _checked(bytes(line.body), kind, "body.")
    return Request(line.custom_id, line.url, model, bytes(line.body))


def _simple(number: int, raw: bytes, kind: Kind) -> Request:
    body, model = _checked(raw, kind, "")
    if kind.endpoint:
        endpoint = kind.endpoint
    elif bytes(body.messages):
        endpoint = _CHAT
    elif bytes(body.prompt):
        endpoint = _COMPLETIONS
    elif bytes(body.input):
        endpoint = _EMBEDDINGS
    else:
        raise BadLine(
            "invalid_request", "it says nothing to ask: messages, prompt or input, or custom_id, url and body"
        )
    return Request(f"line-{number}", endpoint, model, raw)


def _checked(raw: bytes, kind: Kind, at: str) -> tuple[_Body, str]:
    body = _BODY.decode(raw)
    if not body.model and not kind.targeted:
        raise BadLine("invalid_request", f"{at}model: it names no model", f"{at}model")
    if body.stream:
        raise BadLine("invalid_request", f"{at}stream: the answers of a batch are not streamed", f"{at}stream")
    if body.store or body.background:
        field = "store" if body.store else "background"
        raise BadLine("invalid_request", f"{at}{field}: a line may be asked twice, after a crash", f"{at}{field}")
    return body, body.model


class Splitter:
    """Bytes in pieces of any size to lines, numbered from 1; empty lines are left out. BadLine if one is too long."""

    def __init__(self, longest: int) -> None:
        self._longest, self._rest, self._number = longest, b"", 0

    @property
    def number(self) -> int:
        """Of the last line that was begun."""
        return self._number + 1

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            yield from self._take(line)
        if len(self._rest) > self._longest:
            raise self._too_long()

    def end(self) -> Iterator[tuple[int, bytes]]:
        """The last line, which need not have an end."""
        rest, self._rest = self._rest, b""
        yield from self._take(rest)

    def _take(self, line: bytes) -> Iterator[tuple[int, bytes]]:
        if len(line) > self._longest:
            raise self._too_long()
        self._number += 1
        if line.strip():
            yield self._number, line.strip()

    def _too_long(self) -> BadLine:
        return BadLine("line_too_long", f"it is longer than {self._longest >> 10} KiB")


class Check:
    """Looks at all lines of an input. `faults` are the first of what is wrong, `lines` how many there are."""

    def __init__(self, kind: Kind, longest: int, most: int) -> None:
        self.faults: list[LineFault] = []
        self.lines = 0
        self._kind, self._most = kind, most
        self._splitter = Splitter(longest)
        self._ids: set[bytes] = set()
        self._over = False

    def feed(self, data: bytes) -> None:
        self._look(self._splitter.feed(data))

    def end(self) -> None:
        self._look(self._splitter.end())
        if not self.lines and not self.faults:
            self.faults.append(LineFault(code="empty_file", message="there are no lines"))

    def _look(self, found: Iterator[tuple[int, bytes]]) -> None:
        if self._over:
            return
        try:
            for number, raw in found:
                self._line(number, raw)
        except BadLine as bad:  # of the splitter: nothing behind it can be read
            self._over = True
            self._fault(bad, self._splitter.number)

    def _line(self, number: int, raw: bytes) -> None:
        self.lines += 1
        if self.lines == self._most + 1:
            self._fault(BadLine("too_many_lines", f"there are more than {self._most} lines"), number)
        if self.lines > self._most or len(self.faults) >= MOST_FAULTS:
            return
        try:
            custom_id = read(number, raw, self._kind).custom_id
        except BadLine as bad:
            self._fault(bad, number)
            return
        known = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
        if known in self._ids:
            self._fault(
                BadLine("duplicate_custom_id", f"custom_id: {custom_id!r} stands there twice", "custom_id"), number
            )
        self._ids.add(known)

    def _fault(self, bad: BadLine, number: int) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(LineFault(code=bad.code, message=bad.message, param=bad.param, line=number))


def answered(task: str, number: int, custom_id: str, status: int, request_id: str, body: bytes) -> tuple[bool, bytes]:
    """The result of a line that got an answer, whether it is a good one, and that as a line of JSON."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
        content: Any = msgspec.Raw(b"".join(body.splitlines()))  # it has to stay on one line; in texts there are none
    except (msgspec.DecodeError, UnicodeDecodeError):
        content = body.decode("utf-8", "replace")
    response = {"status_code": status, "request_id": request_id, "body": content}
    return status < _BAD, _line(task, number, custom_id, response, None)


def refused(task: str, number: int, custom_id: str, code: str, message: str) -> tuple[bool, bytes]:
    """The result of a line that could not be answered."""
    return False, _line(task, number, custom_id, None, {"code": code, "message": message})


def _line(task: str, number: int, custom_id: str, response: object, error: object) -> bytes:
    result = {"id": f"{task}-{number}", "custom_id": custom_id, "response": response, "error": error}
    return msgspec.json.encode(result) + b"\n"
