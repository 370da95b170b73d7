"""Words that this gateway sealed and can tell again, whichever of its processes is asked: nothing is kept of them."""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from pathlib import Path

from gateway import durable
from gateway.errors import SettingsInvalid

_SHORTEST = 32


class Seal:
    """HMAC-SHA256 by a key that never leaves `<state_dir>/seal.key`."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of(cls, state_dir: Path) -> "Seal":
        """With the gateway's key, which is made if there is none. SettingsInvalid if others may read it."""
        path = state_dir / "seal.key"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            durable.create(path, secrets.token_bytes(_SHORTEST))
        key = path.read_bytes()
        if path.stat().st_mode & 0o077 or len(key) < _SHORTEST:
            raise SettingsInvalid(
                f"{path}: this is no private key of the gateway",
                hint=f"Remove {path} and start the gateway again: who has a session open in a browser opens it again.",
            )
        return cls(key)

    def close(self, *words: str) -> str:
        """The words in one piece of text that only this gateway can make; anybody can read them."""
        text = base64.urlsafe_b64encode(json.dumps(words).encode()).decode().rstrip("=")
        return f"{text}.{self._mark(text)}"

    def open(self, sealed: str) -> list[str] | None:
        """The words; None if this gateway never sealed them."""
        text, _, mark = sealed.partition(".")
        if not hmac.compare_digest(mark.encode(), self._mark(text).encode()):
            return None
        try:
            words: list[str] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except (binascii.Error, ValueError):
            return None
        return words

    def _mark(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
