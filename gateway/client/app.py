"""The client service: the data plane. `/v1` for models, `/s/<session>/` for everything else."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from gateway.client import openai, sessions
from gateway.client.routes import Routes
from gateway.core.context import Gateway
from gateway.identity.opening import open_callers
from gateway.identity.pki import Pki
from gateway.model.principal import Scope
from gateway.network.agents import AgentPath
from gateway.web.app import Part, Web, background

OLD_ROUTES = 15.0


def parts(gateway: Gateway) -> list[Part]:
    """The data plane as parts of a frame; both fronts share one table of routes."""
    pki = Pki(gateway.settings.state_dir)
    routes = Routes(gateway, AgentPath(lambda: pki.client().file))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await routes.refresh()
        async with background("routes", routes.run):
            yield

    async def check() -> Mapping[str, str]:
        age = routes.age
        return {"routes": "ok" if age < OLD_ROUTES else f"known as of {age:.0f} s ago: the database does not answer"}

    return [
        Part(
            name="openai",
            prefixes=(openai.PREFIX,),
            app=openai.OpenAi(routes),
            max_body=None,
            render=openai.as_openai,
            scope=lambda _method, _path: Scope.INFERENCE,
            lifespan=lifespan,
            check=check,
        ),
        Part(
            name="sessions",
            prefixes=(sessions.PREFIX,),
            app=sessions.SessionProxy(routes),
            max_body=None,
            headers=False,
            scope=lambda _method, _path: Scope.WRITE,
            browser=lambda path: path.startswith(f"{sessions.PREFIX}/"),
        ),
    ]


def app(gateway: Gateway) -> Web:
    """The client service on a port of its own."""
    return Web(parts(gateway), open_callers(gateway))
