"""The control channel: one JSON object a line from the gateway, one a line back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Callable, Dict

if TYPE_CHECKING:
    from .edge import Edge
    from .landing import Bytes

MAX_LINE = 1 << 20

Answer = Dict[str, Any]
Ask = Callable[[Dict[str, Any]], Answer]


class ControlChannel:
    """A handler of one control connection. `ask` answers a request: {"op": "...", ...} -> {"ok": ..., ...}."""

    def __init__(self, edge: Edge, ask: Ask) -> None:
        self._edge = edge
        self._ask = ask
        self._buffer = b""

    def received(self, data: Bytes) -> None:
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            if line.strip():
                self._edge.write(json.dumps(self._answer(line)).encode() + b"\n")
        if len(self._buffer) > MAX_LINE:
            self._edge.write(json.dumps(_error("a request may have 1 MiB")).encode() + b"\n")
            self._edge.close()

    def ended(self) -> None:
        self._edge.close()

    def lost(self) -> None:
        pass

    def choke(self) -> None:
        self._edge.pause_reading()  # who asks without reading the answers waits

    def unchoke(self) -> None:
        self._edge.resume_reading()

    def _answer(self, line: bytes) -> Answer:
        try:
            request = json.loads(line)
        except ValueError:
            return _error("a request is one JSON object a line")
        if not isinstance(request, dict) or not isinstance(request.get("op"), str):
            return _error('a request is {"op": "...", ...}')
        return self._ask(request)


def _error(text: str) -> Answer:
    return {"ok": False, "error": text}
