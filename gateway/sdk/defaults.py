"""Where the gateway is and who we are, if nobody says: the environment, then the local token file."""

import os
from pathlib import Path

URL = "http://127.0.0.1:8000"


def url() -> str:
    """$SLUICE_URL, or the all-in-one gateway on this machine."""
    return os.environ.get("SLUICE_URL") or URL


def token() -> str | None:
    """$SLUICE_TOKEN, or the local administrator's token if this user may read it."""
    if given := os.environ.get("SLUICE_TOKEN"):
        return given
    try:
        return token_file().read_text().strip() or None
    except OSError:
        return None


def token_file() -> Path:
    """Where a gateway with default settings keeps the token it made at its first start."""
    if os.geteuid() == 0:
        return Path("/var/lib/sluice/token")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "sluice/token"
