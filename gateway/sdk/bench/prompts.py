"""What is asked: prompts made of words, as long as they are wished, or those of a file."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.errors import Invalid
from gateway.model.bench import Workload

_TEXT = (
    "river stone window garden letter morning paper winter mountain silver table music forest summer bridge "
    "kitchen market island village doctor mirror castle engine harbor shadow thunder valley travel yellow simple "
    "gentle open quiet early deep round clear small young heavy north south under over after before again never"
)


class Prompts:
    """Bodies of requests, one after the other; the same for the same seed.

    `words` of a synthetic prompt are set once it is known how many tokens the model makes of them. Each begins with
    words of its own, so that no server answers from a cache of prefixes.
    """

    def __init__(self, workload: Workload, model: str, given: Sequence[Mapping[str, Any]] = ()) -> None:
        self._workload, self._model, self._given = workload, model, given
        self.words = workload.prompt_tokens or 1
        self._at = 0
        self._random = random.Random(workload.seed)  # noqa: S311 -- to be repeated, not to be secret
        words = _TEXT.split()
        self._text = [self._random.choice(words) for _ in range(1 << 14)]

    @property
    def synthetic(self) -> bool:
        return not self._given

    def bodies(self) -> Iterator[bytes]:
        """For ever; a file's begin again at its end."""
        while True:
            yield self.body(None)

    def body(self, most: int | None) -> bytes:
        """The next one; `most` tokens of answer in place of what was asked for."""
        asked = self._given[self._at % len(self._given)] if self._given else self._made()
        self._at += 1
        workload = self._workload
        tokens = most or workload.output_tokens
        body = {
            **asked,
            "model": self._model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            **({"max_tokens": tokens} if tokens else {}),
            **({"ignore_eos": True} if workload.ignore_eos and most is None else {}),
        }
        return json.dumps(body).encode()

    def _made(self) -> dict[str, Any]:
        words = [f"{self._random.getrandbits(16):x}"]
        left = self.words - 1
        while left > 0:
            at = self._random.randrange(len(self._text) // 2)
            part = self._text[at : at + left]
            words += part
            left -= len(part)
        text = " ".join(words)
        if self._workload.endpoint == "completions":
            return {"prompt": text}
        return {"messages": [{"role": "user", "content": text}]}


def read(path: Path, endpoint: str) -> list[dict[str, Any]]:
    """The prompts of a file, a JSON text or object a line; Invalid says which line is wrong.

    An object has `prompt` (a text) or `messages`, and perhaps `max_tokens`; lines of OpenAI's batch files have it in
    `body`.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"cannot read {path}: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(_asked(json.loads(line), endpoint))
            except ValueError as error:
                raise Invalid(
                    f"{path}, line {number}: {error}",
                    hint='Write {"prompt": "..."} or {"messages": [...]} on each line.',
                ) from None
    if not found:
        raise Invalid(f"there is no prompt in {path}")
    return found


def _asked(told: Any, endpoint: str) -> dict[str, Any]:
    if isinstance(told, dict) and isinstance(told.get("body"), dict):
        told = told["body"]
    if isinstance(told, str):
        told = {"prompt": told}
    if not isinstance(told, dict):
        raise ValueError("neither a text nor an object")  # noqa: TRY004 -- of the file, like all of its faults
    prompt, messages = told.get("prompt"), told.get("messages")
    most = told.get("max_tokens") or told.get("max_completion_tokens")
    kept = {"max_tokens": most} if isinstance(most, int) else {}
    if endpoint == "completions":
        if not isinstance(prompt, str):
            raise ValueError("it has no `prompt`, which the completions endpoint takes")
        return {"prompt": prompt, **kept}
    if isinstance(messages, list) and messages:
        return {"messages": messages, **kept}
    if isinstance(prompt, str):
        return {"messages": [{"role": "user", "content": prompt}], **kept}
    raise ValueError("it has neither `prompt` nor `messages`")
