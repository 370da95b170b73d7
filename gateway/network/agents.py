"""Talking to agents: TLS that pins the announced certificate, connections to relays, and the control channel.

The announcement in the job comment vouches for one certificate, so no CA is asked and no name is compared: the
handshake fails unless the peer shows exactly that certificate and proves that it has its key.
"""

import asyncio
import hashlib
import hmac
import json
import os
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from gateway.core.ports import AgentStatus, Way
from gateway.errors import EndpointUnavailable
from gateway.model.announcement import Endpoint

CONTROL = "sluice-control"
P = TypeVar("P", bound=asyncio.BaseProtocol)
_LONGEST_LINE = 1 << 20
_MOST_CONTEXTS = 4096


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


class AgentPath:
    """The way to agents: opens TLS connections to the relays that were announced.

    `certfile` gives the gateway's client certificate of now (with its key); a renewed one is used from the next
    connection on. `way` is how the nodes are reached, if not straight from here. `timeout` in seconds for connecting,
    handshake included.
    """

    def __init__(self, certfile: Callable[[], Path], *, way: Way | None = None, timeout: float = 5) -> None:
        self._certfile = certfile
        self._way = way
        self._timeout = timeout
        self._contexts: OrderedDict[tuple[str, Path, int, str | None], ssl.SSLContext] = OrderedDict()

    def context(self, endpoint: Endpoint, *, alpn: str | None = None) -> ssl.SSLContext:
        """The pinned context of an endpoint, kept while the certificate is the same."""
        file = self._certfile()
        key = endpoint.fingerprint, file, file.stat().st_mtime_ns, alpn
        context = self._contexts.pop(key, None) or pinned_context(endpoint.fingerprint, file, alpn=alpn)
        self._contexts[key] = context
        if len(self._contexts) > _MOST_CONTEXTS:
            self._contexts.popitem(last=False)
        return context

    async def connect(self, endpoint: Endpoint, factory: Callable[[], P], *, alpn: str | None = None) -> P:
        """A connected protocol. EndpointUnavailable if nobody is there, or somebody else."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                context = self.context(endpoint, alpn=alpn)
                if self._way is not None:
                    return await self._over(await self._way.open(endpoint.host, endpoint.port), factory, context)
                transport, protocol = await loop.create_connection(factory, endpoint.host, endpoint.port, ssl=context)
                notice_dead_peers(transport.get_extra_info("socket").fileno())  # OSError if it is gone already
        except TimeoutError as error:
            raise unavailable(endpoint, f"no connection within {self._timeout:g} s") from error
        except ssl.SSLError as error:
            raise unavailable(endpoint, f"TLS failed: {error.strerror or error}") from error
        except (OSError, ValueError) as error:
            raise unavailable(endpoint, str(error) or type(error).__name__) from error
        return protocol

    async def _over(self, sock: socket.socket, factory: Callable[[], P], context: ssl.SSLContext) -> P:
        """TLS over a connection that is there."""
        loop = asyncio.get_running_loop()
        try:
            if sock.family == socket.AF_UNIX:
                _, protocol = await loop.create_unix_connection(factory, sock=sock, ssl=context, server_hostname="")
            else:
                notice_dead_peers(sock.fileno())
                _, protocol = await loop.create_connection(factory, sock=sock, ssl=context, server_hostname="")
        except BaseException:
            sock.close()
            raise
        return protocol


def notice_dead_peers(descriptor: int) -> None:
    """A node that vanishes without a word is noticed within half a minute, also while we only wait."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:  # uvloop's own object takes no options
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


_KEEPALIVE = (
    (socket.TCP_KEEPIDLE, 10),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 25_000),
    (socket.TCP_NODELAY, 1),
)


class AgentChannel:
    """The control channel: one JSON line asked, one answered. Implements `core.ports.Agents`. `timeout` in seconds."""

    def __init__(self, path: AgentPath, *, timeout: float = 5) -> None:
        self._path = path
        self._timeout = timeout

    async def status(self, endpoint: Endpoint) -> AgentStatus:
        """What the agent says of its service."""
        answer = await self.call(endpoint, {"op": "status"})
        try:
            return AgentStatus.model_validate(answer)
        except ValidationError as error:
            raise unavailable(endpoint, "its agent gave an answer that cannot be understood") from error

    async def push(self, endpoint: Endpoint, secrets: Mapping[str, str]) -> None:
        """Hand over the values that the agent waits for. The connection is to nobody but the announced agent."""
        await self.call(endpoint, {"op": "secrets", "values": dict(secrets)})

    async def call(self, endpoint: Endpoint, request: dict[str, Any]) -> dict[str, Any]:
        """Ask one thing. EndpointUnavailable if there is no good answer in time."""
        try:
            async with asyncio.timeout(self._timeout):
                line = await self._exchange(endpoint, json.dumps(request).encode() + b"\n")
        except TimeoutError as error:
            raise unavailable(endpoint, f"no answer within {self._timeout:g} s") from error
        except ssl.SSLError as error:
            raise unavailable(endpoint, f"TLS failed: {error.strerror or error}") from error
        except (OSError, ValueError) as error:
            raise unavailable(endpoint, str(error) or type(error).__name__) from error
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise unavailable(endpoint, "its agent closed the channel" if not line else "no JSON came") from error
        if not isinstance(answer, dict) or answer.get("ok") is not True:
            refused = answer.get("error") if isinstance(answer, dict) else None
            raise unavailable(endpoint, f"its agent refused: {refused or 'no reason given'}")
        return answer

    async def _exchange(self, endpoint: Endpoint, line: bytes) -> bytes:
        channel = await self._path.connect(endpoint, _Line, alpn=CONTROL)
        try:
            channel.transport.write(line)
            return await channel.answer
        finally:
            channel.transport.abort()


class _Line(asyncio.Protocol):
    """Collects one line; what came when the peer closed before its end."""

    transport: asyncio.WriteTransport

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._data += data
        if b"\n" in data or len(self._data) > _LONGEST_LINE:
            self._done()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self.answer.done():
            self.answer.set_exception(exc)
        self._done()

    def _done(self) -> None:
        if not self.answer.done():
            self.answer.set_result(bytes(self._data.partition(b"\n")[0]))


def unavailable(endpoint: Endpoint, why: str) -> EndpointUnavailable:
    """The error for an endpoint that cannot be used, in words."""
    return EndpointUnavailable(
        f"the session's node does not answer at {endpoint.host}:{endpoint.port}: {why}",
        hint="The job may just have ended, or its node is cut off; `sluice show` tells its state.",
    )
