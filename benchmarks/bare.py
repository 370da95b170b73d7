"""The client service without the agent's relay: plain TCP to the server, so that the front can be seen by itself.

    python -m benchmarks.bare PORT HOST:PORT

with the settings of $SLUICE_CONFIG. Everything else is as `sluice serve client` has it: token, policy, routes, limits.
"""

import asyncio
import ssl
import sys
from collections.abc import Callable
from typing import TypeVar

import uvloop

from gateway.agent.limits import raise_file_limit
from gateway.cli.assemble import assemble
from gateway.client.app import part, plane_of
from gateway.identity.opening import open_callers
from gateway.model.announcement import Endpoint
from gateway.settings import load
from gateway.web.app import Web
from gateway.web.log import configure
from gateway.web.serving import listen, serve

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Plain:
    """A way to one server, whatever was announced."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    async def connect(self, endpoint: Endpoint, factory: Callable[[], P], *, alpn: str | None = None) -> P:
        del endpoint, alpn
        _, protocol = await asyncio.get_running_loop().create_connection(factory, self._host, self._port)
        return protocol

    def context(self, endpoint: Endpoint) -> ssl.SSLContext:
        del endpoint
        return ssl.create_default_context()


async def run(port: int, upstream: str) -> None:
    """Serve until SIGTERM."""
    settings = load()
    configure(settings.serve.log_format, settings.serve.log_level)
    raise_file_limit()
    host, _, number = upstream.rpartition(":")
    listener = listen("127.0.0.1", port)
    async with assemble(settings) as gateway:
        plane = plane_of(gateway, lambda _: Plain(host, int(number)))
        await serve(Web([part(plane)], open_callers(gateway), settings.serve), listener)


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), sys.argv[2]))
