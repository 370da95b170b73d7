"""Content that is read by range: `Range`, `ETag`, 206 and 416, as RFC 9110 has it. One range at a time."""

import re
from collections.abc import AsyncIterator, Callable
from email.utils import format_datetime
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.errors import SluiceError
from gateway.model.task import KeptFile

_RANGE = re.compile(r"bytes=(\d{0,99})-(\d{0,99})")  # int() takes no thousands of digits
Content = Callable[[int, int], AsyncIterator[bytes]]
JSONL = "application/jsonl"


class Unsatisfiable(Exception):
    """The range lies behind the end."""


def span(said: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one behind the last; None: all of it. What is no single range is not looked at."""
    found = _RANGE.fullmatch(said.strip()) if said is not None else None
    if found is None or (not found[1] and not found[2]):
        return None
    if not found[1]:
        last = int(found[2])
        if not last or not size:
            raise Unsatisfiable
        return max(0, size - last), size
    start, end = int(found[1]), int(found[2]) + 1 if found[2] else size
    if found[2] and end <= start:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, min(end, size)


def serve(request: Request, file: KeptFile, content: Content) -> Response:
    """The file, or what of it was asked for."""
    etag = f'"{file.id}-{file.bytes}-{file.sha256[:16]}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Last-Modified": format_datetime(file.created_at, usegmt=True),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name)}",
        "Cache-Control": "private, no-cache",
    }
    if etag in {word.strip() for word in request.headers.get("if-none-match", "").split(",")}:
        return Response(status_code=304, headers=headers)
    fresh = request.headers.get("if-range") in {None, etag}
    try:
        part = span(request.headers.get("range"), file.bytes) if fresh else None
    except Unsatisfiable:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{file.bytes}"})
    start, end = part or (0, file.bytes)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.bytes}"
    status = 206 if part is not None else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=JSONL)
    return StreamingResponse(_whole(content(start, end)), status, headers=headers, media_type=JSONL)


async def _whole(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """An answer that breaks off must not look whole."""
    try:
        async for piece in pieces:
            yield piece
    except SluiceError as error:
        raise ConnectionAbortedError(error.message) from error
