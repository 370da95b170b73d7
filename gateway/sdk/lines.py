"""The lines of a batch as they are sent: a file of them, or what a program has at hand."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.sdk.wire import Content

PIECE = 1 << 16
#: A prompt, the body of a request, or a request as OpenAI's Batch API has it; or the file with a line for each.
Lines = Path | Iterable[str | Mapping[str, Any]]


class _File:
    def __init__(self, path: Path) -> None:
        self._path = path

    def pieces(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece


class _Memory:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def pieces(self) -> Iterator[bytes]:
        for at in range(0, len(self._data), PIECE):
            yield self._data[at : at + PIECE]


def content(lines: Lines) -> Content:
    if isinstance(lines, Path):
        return _File(lines)
    return _Memory("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode())
