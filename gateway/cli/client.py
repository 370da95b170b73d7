"""How commands reach the gateway: its address and token from the environment or the settings."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.sdk import Sluice
    from gateway.sdk.trust import Ca
    from gateway.settings import Settings

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 -- told apart, not listened on


def where() -> tuple[str, str | None]:
    """Address and token: $SLUICE_URL and $SLUICE_TOKEN, else those of the gateway that the settings describe.

    The token file of this machine is for the gateway of this machine: it is not sent to an address in $SLUICE_URL.
    """
    url, token = os.environ.get("SLUICE_URL"), os.environ.get("SLUICE_TOKEN")
    if url:
        return url.rstrip("/"), token
    from gateway.settings import load

    settings = load()
    url = address(settings)
    if token is None and signed_in(url) is None:
        try:
            token = (settings.state_dir / "token").read_text().strip()
        except OSError:
            socket = settings.identity.socket
            if socket is not None and socket.is_socket():
                return f"unix:{socket}", None
    return url, token


def signed_in(url: str) -> str | None:
    """The token that `sluice login` left for this gateway."""
    from gateway.sdk import credentials

    stored = credentials.load(url)
    return stored.bearer if stored is not None else None


def address(settings: "Settings") -> str:
    """Where the all-in-one gateway of these settings answers on this machine."""
    host = _ANY.get(settings.serve.host, settings.serve.host)
    scheme = "https" if settings.serve.tls_certificate_file is not None else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.serve.all_port}"


def trusted(settings: "Settings | None" = None) -> "Ca":
    """What the gateway that is asked has to show: on its own machine the very certificate that its settings name."""
    if settings is None:
        if os.environ.get("SLUICE_URL"):
            return None
        from gateway.settings import load

        settings = load()
    file = settings.serve.tls_certificate_file
    if file is None or os.environ.get("SLUICE_CA_FILE"):
        return None
    from gateway.sdk.trust import own

    return own(file)


def connect(*, timeout: float = 30.0, attempts: int = 3) -> "Sluice":
    """The SDK's client; use it in a `with` block."""
    from gateway.sdk import Sluice

    url, token = where()
    return Sluice(url, token, timeout=timeout, attempts=attempts, ca=trusted(), origin="cli")
