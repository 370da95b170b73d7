"""The local administrator token: made at first start, kept in a file that only its owner may read.

Until users sign in by an identity provider this is the one way in. Whoever can read `<state_dir>/token` is the
administrator; replacing the file and restarting the services revokes the old token.
"""

import hmac
import secrets
import stat
from pathlib import Path

from gateway import durable
from gateway.errors import SettingsInvalid, Unauthenticated
from gateway.model.principal import LOCAL_ADMIN, Principal

TOKEN_PREFIX = "sluice-"  # noqa: S105 - not a secret: it lets scanners recognise a leaked token
_SHORTEST = 32


def token_file(state_dir: Path) -> Path:
    """Where the token of a gateway is kept."""
    return state_dir / "token"


class LocalIdentity:
    """Knows one caller: the administrator."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._admin = LOCAL_ADMIN

    @classmethod
    def open(cls, state_dir: Path) -> "LocalIdentity":
        """With the gateway's token, which is made if there is none."""
        return cls(load_or_create(state_dir))

    def authenticate(self, token: str) -> Principal:
        """Who holds this token. Unauthenticated for any but the right one, in constant time."""
        if not hmac.compare_digest(token.encode(), self._token):
            raise Unauthenticated(
                "this token is not valid here",
                hint="`sluice env` prints the one of this gateway, if you may read it.",
            )
        return self._admin


def load_or_create(state_dir: Path) -> str:
    """The token; services that start at once all get the same one. SettingsInvalid if the file is not private."""
    path = token_file(state_dir)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        durable.create(path, f"{TOKEN_PREFIX}{secrets.token_urlsafe(32)}\n".encode())
    return load(state_dir)


def load(state_dir: Path) -> str:
    """The token that was made before. SettingsInvalid if there is none, or if others may read it."""
    path = token_file(state_dir)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        token = path.read_text().strip()
    except FileNotFoundError as error:
        raise SettingsInvalid(
            f"{path}: there is no token yet", hint="`sluice serve all` makes it at its first start."
        ) from error
    except OSError as error:
        raise SettingsInvalid(f"{path}: {error.strerror}", hint="Only the gateway's owner may read it.") from error
    if mode & 0o077:
        raise SettingsInvalid(
            f"{path}: others may read the token (mode {mode:04o})",
            hint=f"Make a new one: rm {path}, then start the gateway again.",
        )
    if len(token) < _SHORTEST:
        raise SettingsInvalid(f"{path}: this is not a token", hint=f"Remove {path} and start the gateway again.")
    return token
