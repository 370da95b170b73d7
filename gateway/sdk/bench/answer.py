"""One answer as it comes: when its pieces came, how many tokens the server counted, and what went wrong."""

import json
from typing import Any

from gateway.model.bench import Sample

_OK = 200
_MOST_TOLD = 1 << 16
_TEXTS = ("content", "reasoning_content", "reasoning", "tool_calls", "refusal")


class Answer:
    """A streamed answer of `/v1/chat/completions` or `/v1/completions`. Times are of the caller's clock, in seconds.

    A piece is an event with text (or reasoning, or a tool call) in it: one that only names the role, or only says why
    it ended, is none, as in AIPerf's definition of the first token.
    """

    __slots__ = ("_last", "_rest", "_told", "completion", "end", "fault", "first", "gaps", "prompt", "status", "stream")

    def __init__(self) -> None:
        self.status = 0
        self.stream = False
        self.first: float | None = None
        self.end = 0.0
        self.gaps: list[float] = []
        self.prompt: int | None = None
        self.completion: int | None = None
        self.fault: str | None = None
        self._last = 0.0
        self._rest = b""
        self._told = b""

    @property
    def pieces(self) -> int:
        return 0 if self.first is None else len(self.gaps) + 1

    def began(self, status: int, content_type: bytes) -> None:
        self.status, self.stream = status, content_type.startswith(b"text/event-stream")

    def feed(self, body: bytes, now: float) -> int:
        """Take a part of the body that came now; how many pieces it held."""
        if self.status != _OK or not self.stream:
            self._told += body[: _MOST_TOLD - len(self._told)]
            return 0
        before = self.pieces
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), now)
        return self.pieces - before

    def ended(self, now: float, fault: str | None = None) -> None:
        """It is whole, or broke off with a fault."""
        self.end = now
        if self.fault is not None:
            return
        if fault is not None:
            self.fault = fault
        elif self.status != _OK:
            self.fault = f"HTTP {self.status} {self.error().get('code') or self.error().get('type') or ''}".rstrip()
        elif not self.stream:
            self.fault = "not a stream"
        elif self.first is None:
            self.fault = "no text"

    def error(self) -> dict[str, Any]:
        """What a refusal said, in OpenAI's words or in problem details."""
        try:
            told = json.loads(self._told)
        except ValueError:
            return {}
        if not isinstance(told, dict):
            return {}
        inner = told.get("error", told)
        return inner if isinstance(inner, dict) else {"message": str(inner)}

    def sample(self, due: float, sent: float) -> Sample:
        """The request, now that it has ended."""
        return Sample(
            due=due,
            sent=sent,
            first=self.first,
            end=self.end,
            pieces=self.pieces,
            longest_gap=max(self.gaps, default=0.0),
            prompt_tokens=self.prompt,
            output_tokens=self.completion,
            error=self.fault,
        )

    def _event(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError:
            self.fault = "an event that is no JSON"
            return
        if not isinstance(event, dict):
            self.fault = "an event that is no object"
            return
        if event.get("error"):
            said = event["error"]
            word = (said.get("code") or said.get("type")) if isinstance(said, dict) else None
            self.fault = f"error in the stream: {word or 'no code'}"
        if event.get("usage"):
            self._usage(event["usage"])
        if any(_has_text(choice) for choice in event.get("choices") or ()):
            if self.first is None:
                self.first = now
            else:
                self.gaps.append(now - self._last)
            self._last = now

    def _usage(self, told: Any) -> None:
        if isinstance(told, dict):
            prompt, completion = told.get("prompt_tokens"), told.get("completion_tokens")
            self.prompt = prompt if isinstance(prompt, int) else self.prompt
            self.completion = completion if isinstance(completion, int) else self.completion


def _has_text(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return any(delta.get(name) for name in _TEXTS)
    return bool(choice.get("text"))
