"""Which services run in this process, and on which port."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import structlog

from gateway.agent.limits import raise_file_limit
from gateway.cli.assemble import assemble
from gateway.core.context import Gateway
from gateway.identity.opening import open_callers
from gateway.settings import Settings
from gateway.web import scrape, start
from gateway.web.app import Part, Web
from gateway.web.log import configure
from gateway.web.peers import listen_unix
from gateway.web.serving import GRACE, listen, serve
from gateway.web.tls import Certificate

log = structlog.get_logger(__name__)


def _server(gateway: Gateway) -> Sequence[Part]:
    from gateway.server import app
    from gateway.web import audit, signin

    return [app.part(gateway), signin.part(gateway), audit.part(gateway)]


def _client(gateway: Gateway) -> Sequence[Part]:
    from gateway.client import app

    return app.parts(gateway)


def _monitoring(gateway: Gateway) -> Sequence[Part]:
    from monitoring import app

    return [app.part(gateway)]


def _logs(gateway: Gateway) -> Sequence[Part]:
    from logs import app

    return [app.part(gateway)]


#: Each loads what it needs when it is served: a process of the client service is no larger than it must be.
PARTS: Mapping[str, Callable[[Gateway], Sequence[Part]]] = MappingProxyType(
    {"server": _server, "client": _client, "monitoring": _monitoring, "logs": _logs}
)


def parts_of(service: str, gateway: Gateway) -> Sequence[Part]:
    """The parts of one service, or of all of them. What a process counts of itself is told on every port."""
    if service == "all":
        signs_in = gateway.settings.identity.oidc.issuer is not None
        served = [start.part(signs_in=signs_in), *(part for parts in PARTS.values() for part in parts(gateway))]
    else:
        served = [*PARTS[service](gateway)]
    return [*served, scrape.part(gateway)]


async def run(
    settings: Settings, service: str, *, host: str | None = None, port: int | None = None, grace: int = GRACE
) -> None:
    """Serve until SIGTERM or SIGINT; `grace` in seconds for what is under way then."""
    configure(settings.serve.log_format, settings.serve.log_level)
    raise_file_limit()  # every caller is a file, and so is its connection to an agent
    address = host or settings.serve.host
    number = port if port is not None else int(getattr(settings.serve, f"{service}_port"))
    tls = Certificate.of(settings.serve)
    listeners = [listen(address, number)]
    path = settings.identity.socket if service in {"all", "server"} else None
    if path is not None:
        listeners.append(listen_unix(path))
    async with assemble(settings) as gateway:
        web = Web(parts_of(service, gateway), open_callers(gateway), settings.serve)
        where = {"host": address, "port": listeners[0].getsockname()[1], "tls": tls is not None, "socket": path}
        log.info("serving", service=service, **where)
        await serve(web, *listeners, grace=grace, tls=tls)
    if path is not None:
        path.unlink(missing_ok=True)
    log.info("stopped", service=service)
