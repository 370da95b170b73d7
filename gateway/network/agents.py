"""Talking to agents: TLS that pins the announced certificate, and the control channel.

The announcement in the job comment vouches for one certificate, so no CA is asked and no name is compared: the
handshake fails unless the peer shows exactly that certificate and proves that it has its key.
"""

import asyncio
import hashlib
import hmac
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.core.ports import AgentStatus
from gateway.errors import EndpointUnavailable
from gateway.model.announcement import Endpoint

CONTROL = "sluice-control"
_LONGEST_LINE = 1 << 20


class WrongCertificate(ssl.SSLCertVerificationError):
    """The peer is not the agent that announced itself."""


def pinned_context(
    fingerprint: str, certfile: Path, keyfile: Path | None = None, *, alpn: str | None = None
) -> ssl.SSLContext:
    """A client's TLS 1.3 context that accepts one certificate only (SHA-256 of its DER form, hex) and shows ours.

    The check is part of the handshake itself, so it holds for asyncio, uvloop and every library on top of them, and
    nothing of ours is sent to anybody else. Without `keyfile` the key is read from `certfile`.
    """

    class Pinned(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            shown = hashlib.sha256(self.getpeercert(binary_form=True) or b"").hexdigest()
            if not hmac.compare_digest(shown, fingerprint):
                raise WrongCertificate(1, f"the peer shows certificate {shown[:16]}…, not {fingerprint[:16]}…")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslobject_class = Pinned
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the pin replaces the chain: the certificate is its own issuer
    context.load_cert_chain(certfile, keyfile)
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


class AgentChannel:
    """The control channel: one JSON line asked, one answered. Implements `core.ports.Agents`.

    `certfile` gives the gateway's client certificate of now (with its key); it is asked for every call, so a renewed
    one is used at once. `timeout` in seconds for a whole call.
    """

    def __init__(self, certfile: Callable[[], Path], *, timeout: float = 5) -> None:
        self._certfile = certfile
        self._timeout = timeout

    async def status(self, endpoint: Endpoint) -> AgentStatus:
        """What the agent says of its service."""
        answer = await self.call(endpoint, {"op": "status"})
        try:
            return AgentStatus.model_validate(answer)
        except ValidationError as error:
            raise _unavailable(endpoint, "its agent gave an answer that cannot be understood") from error

    async def call(self, endpoint: Endpoint, request: dict[str, Any]) -> dict[str, Any]:
        """Ask one thing. EndpointUnavailable if there is no good answer in time."""
        try:
            async with asyncio.timeout(self._timeout):
                line = await self._exchange(endpoint, json.dumps(request).encode() + b"\n")
        except TimeoutError as error:
            raise _unavailable(endpoint, f"no answer within {self._timeout:g} s") from error
        except ssl.SSLError as error:
            raise _unavailable(endpoint, f"TLS failed: {error.strerror or error}") from error
        except (OSError, ValueError) as error:
            raise _unavailable(endpoint, str(error) or type(error).__name__) from error
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise _unavailable(endpoint, "its agent closed the channel" if not line else "no JSON came") from error
        if not isinstance(answer, dict) or answer.get("ok") is not True:
            refused = answer.get("error") if isinstance(answer, dict) else None
            raise _unavailable(endpoint, f"its agent refused: {refused or 'no reason given'}")
        return answer

    async def _exchange(self, endpoint: Endpoint, line: bytes) -> bytes:
        context = pinned_context(endpoint.fingerprint, self._certfile(), alpn=CONTROL)
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context, limit=_LONGEST_LINE)
        try:
            writer.write(line)
            await writer.drain()
            return await reader.readline()
        finally:
            writer.transport.abort()


def _unavailable(endpoint: Endpoint, why: str) -> EndpointUnavailable:
    return EndpointUnavailable(
        f"the session's node does not answer at {endpoint.host}:{endpoint.port}: {why}",
        hint="The job may just have ended, or its node is cut off; `sluice show` tells its state.",
    )
