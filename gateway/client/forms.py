"""Uploads as browsers and OpenAI's clients send them (`multipart/form-data`), taken piece by piece."""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from gateway.errors import Invalid

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

LONGEST_FIELD = 4096
MOST_FIELDS = 50


class Begin(NamedTuple):
    """A part begins. `file`: its name, if it is one."""

    name: str
    file: str | None


Piece = Begin | bytes


class _Parts:
    """What the parser says, in order, until it is fetched."""

    def __init__(self) -> None:
        self.said: list[Piece] = []
        self._field = self._value = b""
        self._headers: dict[bytes, bytes] = {}

    def on_part_begin(self) -> None:
        self._headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

        if len(self._value) > LONGEST_FIELD:
            raise Invalid("a header of the form is too long", param="file")

    def on_header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        file = options.get(b"filename")
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self.said.append(Begin(name, file.decode("utf-8", "replace") if file is not None else None))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.said.append(data[start:end])

    def fetch(self) -> list[Piece]:
        said, self.said = self.said, []
        return said


async def pieces(request: Request) -> AsyncIterator[Piece]:
    """The parts of a form, each begun and then as it comes. Invalid if it is no form."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Invalid("the body must be multipart/form-data", param="file")
    parts = _Parts()
    callbacks: MultipartCallbacks = {
        "on_part_begin": parts.on_part_begin,
        "on_part_data": parts.on_part_data,
        "on_header_field": parts.on_header_field,
        "on_header_value": parts.on_header_value,
        "on_header_end": parts.on_header_end,
        "on_headers_finished": parts.on_headers_finished,
    }
    parser = MultipartParser(boundary, callbacks)
    try:
        async for data in request.stream():
            parser.write(data)
            for piece in parts.fetch():
                yield piece
        parser.finalize()
    except FormParserError as error:
        raise Invalid(f"the form cannot be read: {error}", param="file") from error


class Fields:
    """The fields of a form that are no files, each short."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._name: str | None = None

    def begin(self, name: str) -> None:
        self._name = name
        self._values[name] = b""
        if len(self._values) > MOST_FIELDS:
            raise Invalid(f"there are more than {MOST_FIELDS} fields")

    def add(self, data: bytes) -> None:
        name = self._name or ""
        self._values[name] += data
        if len(self._values[name]) > LONGEST_FIELD:
            raise Invalid(f"{name}: it is longer than {LONGEST_FIELD} bytes", param=name)

    @property
    def all(self) -> Mapping[str, str]:
        return {name: value.decode("utf-8", "replace") for name, value in self._values.items()}
