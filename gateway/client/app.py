"""The client service: the data plane. `/v1` for models, `/s/<session>/` for everything else.

It reads requests itself, on the port of the frame around the other services, and hands on to that what is not its own.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

from starlette.types import Receive, Scope, Send

from gateway.client import batches, inside
from gateway.client.cookies import Cookies
from gateway.client.limits import Limits
from gateway.client.loads import Loads
from gateway.client.openai import OpenAi
from gateway.client.plane import Plane
from gateway.client.routes import Routes
from gateway.client.sessions import SessionProxy
from gateway.client.upstream import Path
from gateway.client.vigil import Vigil
from gateway.client.waking import Waking
from gateway.core.bell import Bell
from gateway.core.context import Gateway
from gateway.errors import NotFound
from gateway.identity.pki import Pki
from gateway.identity.seal import Seal
from gateway.model.health import Pulse, ill
from gateway.network.agents import AgentPath
from gateway.store.serving import wake
from gateway.web import refusals
from gateway.web.app import Part, background

OLD_ROUTES = 15.0


def paths_of(gateway: Gateway) -> Callable[[str], AgentPath]:
    """The way to the agents of a cluster, with this gateway's certificate."""
    pki = Pki(gateway.settings.state_dir)
    ways = {name: cluster.way for name, cluster in gateway.clusters.items()}
    paths = {name: AgentPath(lambda: pki.client().file, way=way) for name, way in ways.items()}
    straight = AgentPath(lambda: pki.client().file)
    return lambda cluster: paths.get(cluster, straight)


def plane_of(gateway: Gateway, paths: Callable[[str], Path] | None = None) -> Plane:
    """The data plane of this gateway. `paths`: the way to the agents of a cluster, if it is another one."""
    settings = gateway.settings
    cookies = Cookies(Seal.of(settings.state_dir), settings.proxy.cookie_hours)
    routes = Routes(gateway, paths or paths_of(gateway))
    services = (SessionProxy(gateway, cookies), OpenAi())  # a session of its own origin has any path
    bell = Bell()
    limits = Limits(settings.proxy, bell.ring)
    waking = Waking(settings.proxy, partial(_wake, gateway), bell.ring)
    loads = Loads(gateway, routes, limits, bell)
    return Plane(routes, limits, waking, loads, services, partial(refusals.tell, gateway))


async def _wake(gateway: Gateway, session_id: str) -> bool:
    """Start a session that sleeps; whether it did."""
    woken = await gateway.db.write(wake, session_id, gateway.clock())
    if woken:
        gateway.work.ring()
        gateway.news.ring()
    return woken


def knowledge(age: float) -> Pulse:
    """How old what is known of sessions is, for health: seconds since it was known to be right."""
    if age < OLD_ROUTES:
        return Pulse(well=True, says=f"ok, as of {age:.1f} s ago")
    return ill(f"known as of {age:.0f} s ago: the database does not answer")


def parts(gateway: Gateway) -> list[Part]:
    """The data plane as parts of a frame."""
    plane = plane_of(gateway)
    return [part(plane), inside.part(gateway, paths_of(gateway)), batches.part(gateway, plane)]


def part(plane: Plane) -> Part:
    """The part of a frame that a data plane is. It writes down itself whom it denied something."""
    routes = plane.routes

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await routes.refresh()
        async with (
            background("witness", routes.witness.run),
            background("routes", routes.run),
            background("deadlines", plane.sweep),
            background("loads", plane.loads.run),
            background("vigil", Vigil(plane).run),
        ):
            yield

    async def check() -> Mapping[str, Pulse]:
        return {"routes": knowledge(routes.age)}

    return Part(
        name="data plane", prefixes=(), app=_nothing_here, lifespan=lifespan, check=check, entrance=plane.entrance
    )


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    del receive, send
    raise NotFound(f"there is nothing at {scope['path']}")
