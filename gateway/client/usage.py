"""The tokens that an answer used, read from its last bytes: model servers say it at the end."""

import json
import re
from dataclasses import dataclass

#: Enough for the last events of a stream, and for the end of an answer whose `usage` comes last.
_KEPT = 4096
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer."""

    prompt: int
    completion: int


class Tail:
    """The last bytes of an answer. `stream`: it is made of server-sent events."""

    __slots__ = ("_last", "stream")

    def __init__(self, *, stream: bool) -> None:
        self._last = b""
        self.stream = stream

    def add(self, data: bytes) -> None:
        self._last = data if len(data) >= _KEPT else (self._last + data)[-_KEPT:]

    def usage(self) -> Usage | None:
        """None if the server did not say it where it is looked for."""
        found = _USAGE.findall(self._last)
        if not found:
            return None
        try:
            told = json.loads(found[-1])
        except ValueError:
            return None
        prompt = told.get("prompt_tokens", told.get("input_tokens"))
        completion = told.get("completion_tokens", told.get("output_tokens", 0))
        good = isinstance(prompt, int) and isinstance(completion, int) and prompt >= 0 and completion >= 0
        return Usage(prompt, completion) if good else None
