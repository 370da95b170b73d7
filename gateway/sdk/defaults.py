"""Where the gateway is and who we are, if nobody says: the environment, then the local token file."""

import os
from pathlib import Path
from urllib.parse import urlsplit

URL = "http://127.0.0.1:8000"
SOCKET = Path("/run/sluice/gateway.sock")
"""Where a site's gateway knows people by their Unix user."""

UNIX = "unix:"


def url() -> str:
    """$SLUICE_URL, else the site's socket on this machine, else the all-in-one gateway here."""
    return os.environ.get("SLUICE_URL") or (f"{UNIX}{SOCKET}" if SOCKET.is_socket() else URL)


def base(address: str) -> str:
    """The address as HTTP needs it: over a socket the host is of no importance."""
    return "http://localhost" if address.startswith(UNIX) else address


def socket_of(address: str) -> str | None:
    """The socket that `unix:/path` means."""
    return address.removeprefix(UNIX) if address.startswith(UNIX) else None


def token(address: str) -> str | None:
    """$SLUICE_TOKEN; for a gateway on this machine also the local administrator's, if this user may read it."""
    if given := os.environ.get("SLUICE_TOKEN"):
        return given
    if not is_local(address):
        return None
    try:
        return token_file().read_text().strip() or None
    except OSError:
        return None


def is_local(address: str) -> bool:
    """Whether an address is this machine: its token is nobody else's business, and no proxy stands before it.

    Its socket is not: that needs no token.
    """
    return urlsplit(address).hostname in {"127.0.0.1", "localhost", "::1"}


def token_file() -> Path:
    """Where a gateway with default settings keeps the token it made at its first start."""
    if os.geteuid() == 0:
        return Path("/var/lib/sluice/token")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "sluice/token"
