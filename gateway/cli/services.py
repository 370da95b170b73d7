"""Which services run in this process, and on which port."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import structlog

from gateway.cli.assemble import assemble
from gateway.client import app as client
from gateway.core.context import Gateway
from gateway.identity.local import LocalIdentity
from gateway.server import app as server
from gateway.settings import Settings
from gateway.web.app import Part, Web
from gateway.web.log import configure
from gateway.web.serving import listen, serve

log = structlog.get_logger(__name__)

PARTS: Mapping[str, Callable[[Gateway], Sequence[Part]]] = MappingProxyType(
    {
        "server": lambda gateway: [server.part(gateway)],
        "client": client.parts,
    }
)


def parts_of(service: str, gateway: Gateway) -> Sequence[Part]:
    """The parts of one service, or of all of them."""
    names = PARTS if service == "all" else (service,)
    return [part for name in names for part in PARTS[name](gateway)]


async def run(settings: Settings, service: str, *, host: str | None, port: int | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    configure(settings.serve.log_format, settings.serve.log_level)
    address = host or settings.serve.host
    number = port if port is not None else int(getattr(settings.serve, f"{service}_port"))
    listener = listen(address, number)
    async with assemble(settings) as gateway:
        identity = LocalIdentity.open(settings.state_dir)
        web = Web(parts_of(service, gateway), identity)
        log.info("serving", service=service, host=address, port=listener.getsockname()[1])
        await serve(web, listener)
    log.info("stopped", service=service)
