"""The tokens that an answer used, read from its last bytes: model servers say it at the end."""

import re
from typing import Annotated, NamedTuple

import msgspec

from gateway.agent.landing import Bytes

#: Enough for the last events of a stream, and for the end of an answer whose `usage` comes last.
_KEPT = 4096
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


_Count = Annotated[int, msgspec.Meta(ge=0)]


class Usage(NamedTuple):
    """Tokens of one answer."""

    prompt: int
    completion: int


class _Told(msgspec.Struct):
    """As completions say it, or as responses do."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None


_DECODER = msgspec.json.Decoder(_Told)


class Tail:
    """The last bytes of an answer. `stream`: it is made of server-sent events."""

    __slots__ = ("_before", "_pieces", "_size", "stream")

    def __init__(self, *, stream: bool) -> None:
        # Pieces as they came, in two lots of which the older one is let go: to join them each time would cost more
        # than anything else that is done with an event.
        self._before: list[bytes] = []
        self._pieces: list[bytes] = []
        self._size = 0
        self.stream = stream

    def add(self, data: Bytes) -> None:
        self._size += len(data)
        if self._size > _KEPT:
            self._before, self._pieces, self._size = self._pieces, [], len(data)
        self._pieces.append(bytes(data) if len(data) <= _KEPT else bytes(data[-_KEPT:]))

    def usage(self) -> Usage | None:
        """None if the server did not say it where it is looked for."""
        last = b"".join((*self._before, *self._pieces))
        at = last.rfind(b'"usage"')
        found = _USAGE.match(last, at) if at >= 0 else None
        if found is None:
            return None
        try:
            told = _DECODER.decode(found[1])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        prompt = told.prompt_tokens if told.prompt_tokens is not None else told.input_tokens
        completion = told.completion_tokens if told.completion_tokens is not None else told.output_tokens
        return Usage(prompt or 0, completion or 0)
