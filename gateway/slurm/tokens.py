"""Short-lived tokens for slurmrestd, signed by the gateway with the cluster's own HS256 key, one for each user."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import jwt

from gateway.errors import SchedulerUnavailable

LIFE: Final = 600.0
SKEW: Final = 60.0


class Tokens:
    """Mints and keeps them. `now` is epoch seconds; the key file is read again after `forget`, so it may be changed."""

    def __init__(self, key_file: Path, now: Callable[[], float], *, life: float = LIFE) -> None:
        self._key_file = key_file
        self._now = now
        self._life = life
        self._key: bytes | None = None
        self._kept: dict[str, tuple[str, float]] = {}

    def token(self, user: str) -> str:
        """A token with at least half of its life left; `iat` lies back, for clusters whose clock is behind ours."""
        now = self._now()
        kept = self._kept.get(user)
        if kept is not None and kept[1] - now > self._life / 2:
            return kept[0]
        end = now + self._life
        claims = {"iat": int(now - SKEW), "exp": int(end), "sun": user}
        token = jwt.encode(claims, self._read(), algorithm="HS256")
        if len(self._kept) > 10_000:  # noqa: PLR2004  users come and go; tokens are cheap
            self._kept.clear()
        self._kept[user] = (token, end)
        return token

    def forget(self) -> None:
        """Slurm refused one: mint anew, with the key as it is now."""
        self._kept.clear()
        self._key = None

    def _read(self) -> bytes:
        if self._key is None:
            try:
                self._key = self._key_file.read_bytes()
            except OSError as error:
                raise SchedulerUnavailable(
                    f"jwt_key_file {self._key_file}: {error.strerror}",
                    hint="It is the key of slurm.conf's AuthAltParameters; the gateway must be able to read it.",
                ) from error
        return self._key
