"""The client of a gateway: sessions, recipes, clusters, images, health."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack
from urllib.parse import urljoin

from pydantic import BaseModel

from gateway.model.api import (
    ClusterView,
    EventView,
    ExtendRequest,
    HealthView,
    OpeningView,
    Page,
    RecipeDetail,
    RecipePage,
    ReplicaView,
    ScaleRequest,
    ScriptView,
    SessionView,
    UpdateRequest,
)
from gateway.model.image import Image
from gateway.model.user import MeView
from gateway.sdk import wire
from gateway.sdk._async.audit import AsyncAudit
from gateway.sdk._async.people import AsyncProjects, AsyncSecrets, AsyncTokens, AsyncUsers
from gateway.sdk._async.policies import AsyncPolicies
from gateway.sdk._async.session import AsyncSession, follow_events, openai_client
from gateway.sdk._async.tasks import AsyncTasks
from gateway.sdk._async.transport import AsyncTransport
from gateway.sdk._async.volumes import AsyncVolumes
from gateway.sdk.trust import Ca
from gateway.sdk.wire import SessionOptions

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class AsyncSluice:
    """A gateway. Without arguments: $SLUICE_URL and $SLUICE_TOKEN, else the gateway of this machine and its token file.

    `timeout` in seconds for each answer; `attempts` for calls that may be repeated (1: never try again). `ca` is a file
    with CA certificates, in place of the system's; unset: $SLUICE_CA_FILE. `origin` is for programs through which
    people ask, as policies and the audit log call them.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = 30.0,
        attempts: int = wire.ATTEMPTS,
        ca: Ca = None,
        origin: wire.Origin | None = None,
    ) -> None:
        self._transport = AsyncTransport(url, token, timeout=timeout, attempts=attempts, ca=ca, origin=origin)
        self.sessions = AsyncSessions(self._transport)
        self.recipes = AsyncRecipes(self._transport)
        self.clusters = AsyncClusters(self._transport)
        self.images = AsyncImages(self._transport)
        self.tokens = AsyncTokens(self._transport)
        self.projects = AsyncProjects(self._transport)
        self.users = AsyncUsers(self._transport)
        self.secrets = AsyncSecrets(self._transport)
        self.volumes = AsyncVolumes(self._transport)
        self.tasks = AsyncTasks(self._transport)
        self.policies = AsyncPolicies(self._transport)
        self.audit = AsyncAudit(self._transport)

    @property
    def url(self) -> str:
        return self._transport.url

    @property
    def token(self) -> str | None:
        return self._transport.token

    async def health(self) -> HealthView:
        """Whether the gateway can do its work; `degraded` also when it says so with a 503."""
        return wire.read(HealthView, await self._transport.send(wire.HEALTH))

    async def me(self) -> MeView:
        """Who the gateway takes you for."""
        return wire.read(MeView, await self._transport.send(wire.get("/me")))

    async def alive(self) -> bool:
        """Whether something answers at the address, without a token and without trying again."""
        return await self._transport.alive()

    def events(self, *, after: int | None = None, follow: bool = True) -> AsyncGenerator[EventView, None]:
        """What happens to any of your sessions: from now on, or what followed the event `after` (0: all)."""
        return follow_events(self._transport, None, after=after, follow=follow)

    async def chat(
        self, messages: str | Sequence[Mapping[str, Any]], *, model: str, **options: Any
    ) -> AsyncGenerator[str, None]:
        """Ask a model through `/v1/chat/completions`; its answer in pieces, as they come.

        `options` are those of the OpenAI API: max_tokens, temperature, .... Needs no extra.
        """
        call = wire.chat(messages, model, options)
        async with aclosing(self._transport.stream(call, read_timeout=None)) as events:
            async for event in events:
                if event is not None and (text := wire.chat_text(event, self.url)):
                    yield text

    def openai(self, **options: Any) -> "AsyncOpenAI":
        """An OpenAI client on the gateway's `/v1`, where all of your ready models are (extra `openai`)."""
        return openai_client(self._transport, **options)

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class AsyncSessions:
    """Your sessions. `ref` is an id, or a name: a live session of that name first, else the newest."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self, recipe: str, *, idempotency_key: str | None = None, **options: Unpack[SessionOptions]
    ) -> AsyncSession:
        """Start a session; durable when this returns, and never started twice, however often it is tried.

        Options: `parameters`, `resources` (overrides: nodes, cpus, memory, time, partition, qos, gpus), `name`,
        `version` (of the recipe), `project`, `cluster`, `labels`, `volumes`.
        RecipeNotFound, ParameterInvalid, ImageMissing, Conflict (the name is taken).
        """
        request = wire.session_request(recipe, options)
        response = await self._transport.send(wire.create(request, idempotency_key))
        return AsyncSession(self._transport, wire.read(SessionView, response))

    async def dry_run(self, recipe: str, **options: Unpack[SessionOptions]) -> ScriptView:
        """Exactly what `create` would send to Slurm; nothing is started."""
        request = wire.session_request(recipe, options)
        return wire.read(ScriptView, await self._transport.send(wire.dry_run(request)))

    async def get(self, ref: str) -> AsyncSession:
        """SessionNotFound if there is none, or none that you may know of."""
        response = await self._transport.send(wire.get(f"/sessions/{wire.quoted(ref)}"))
        return AsyncSession(self._transport, wire.read(SessionView, response))

    async def list(
        self,
        *,
        phase: str | None = None,
        ended: bool | None = None,
        recipe: str | None = None,
        name: str | None = None,
        project: str | None = None,
        cluster: str | None = None,
        labels: Mapping[str, str] | None = None,
        page_size: int = 100,
    ) -> AsyncGenerator[AsyncSession, None]:
        """All that match, newest first, page by page as they are asked for."""
        cursor: str | None = None
        while True:
            call = wire.get(
                "/sessions",
                phase=phase,
                ended=ended,
                recipe=recipe,
                name=name,
                project=project,
                cluster=cluster,
                label=[f"{key}={value}" for key, value in labels.items()] if labels else None,
                limit=page_size,
                cursor=cursor,
            )
            page = wire.read(Page[SessionView], await self._transport.send(call))
            for view in page.items:
                yield AsyncSession(self._transport, view)
            cursor = page.next
            if cursor is None:
                return

    async def stop(self, ref: str) -> AsyncSession:
        """Ask for its end, in any phase, any number of times."""
        response = await self._transport.send(wire.stop(ref))
        return AsyncSession(self._transport, wire.read(SessionView, response))

    async def scale(self, ref: str, least: int, most: int | None = None) -> AsyncSession:
        """Let at least and at most so many jobs serve it; 0: none while nobody uses it."""
        return await self._ask(ref, "scale", ScaleRequest(min=least, max=most))

    async def extend(self, ref: str, seconds: int) -> AsyncSession:
        """Do not stop it for being idle for so many seconds from now."""
        return await self._ask(ref, "extend", ExtendRequest(seconds=seconds))

    async def update(
        self,
        ref: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        resources: Mapping[str, Any] | None = None,
        image: str | None = None,
        version: str | None = None,
    ) -> AsyncSession:
        """Run it with other parameters, resources or another image, without a gap; what is not said stays."""
        changes = {"parameters": parameters, "resources": resources, "image": image, "version": version}
        said = {name: value for name, value in changes.items() if value is not None}
        return await self._ask(ref, "update", UpdateRequest.model_validate(said))

    async def resume(self, ref: str) -> AsyncSession:
        """Start an ended session again, as it was. Conflict while it is live."""
        return await self._ask(ref, "resume", None)

    async def jobs(self, ref: str) -> Sequence[ReplicaView]:
        """All jobs that it has and had, by attempt."""
        response = await self._transport.send(wire.get(f"/sessions/{wire.quoted(ref)}/jobs"))
        return wire.read(Page[ReplicaView], response).items

    async def _ask(self, ref: str, what: str, body: BaseModel | None) -> AsyncSession:
        response = await self._transport.send(wire.wish(ref, what, body))
        return AsyncSession(self._transport, wire.read(SessionView, response))

    async def link(self, ref: str) -> str:
        """An address of its pages that lets a browser in, once and within a minute."""
        view = wire.read(OpeningView, await self._transport.send(wire.link(ref)))
        return urljoin(f"{self._transport.url}/", view.url)

    async def delete(self, ref: str, *, files: bool = False) -> None:
        """Forget an ended session; with `files` its directory on the cluster goes, too. Conflict while it is live."""
        await self._transport.send(wire.delete(ref, files=files))

    async def script(self, ref: str) -> ScriptView:
        """What was, or will be, sent to Slurm."""
        response = await self._transport.send(wire.get(f"/sessions/{wire.quoted(ref)}/script"))
        return wire.read(ScriptView, response)

    async def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        file: Literal["service", "job"] = "service",
        tail: int | None = None,
        attempt: int | None = None,
    ) -> AsyncGenerator[str, None]:
        """The log in pieces of text; see `Session.logs`."""
        session = await self.get(ref)
        async with aclosing(session.logs(follow=follow, file=file, tail=tail, attempt=attempt)) as pieces:
            async for text in pieces:
                yield text

    async def events(
        self, ref: str, *, after: int | None = None, follow: bool = False
    ) -> AsyncGenerator[EventView, None]:
        """What happened to one session; with `follow` until it has ended."""
        async with aclosing(follow_events(self._transport, ref, after=after, follow=follow)) as events:
            async for event in events:
                yield event


class AsyncRecipes:
    """The catalogue."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self) -> RecipePage:
        """Every recipe in its newest version, and the files that could not be read (`problems`)."""
        return wire.read(RecipePage, await self._transport.send(wire.get("/recipes")))

    async def get(self, name: str, version: str | None = None) -> RecipeDetail:
        """RecipeNotFound names the nearest."""
        response = await self._transport.send(wire.get(f"/recipes/{wire.quoted(name)}", version=version))
        return wire.read(RecipeDetail, response)

    async def parameters(self, name: str, version: str | None = None) -> dict[str, Any]:
        """JSON Schema of a recipe's parameters."""
        call = wire.get(f"/recipes/{wire.quoted(name)}/schema", version=version)
        return dict(await self._transport.json(call))

    async def schema(self) -> dict[str, Any]:
        """JSON Schema of recipe files."""
        return dict(await self._transport.json(wire.get("/recipes/schema")))

    async def render(
        self,
        name: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        resources: Mapping[str, Any] | None = None,
        cluster: str | None = None,
        version: str | None = None,
    ) -> ScriptView:
        """The script that these answers give; nothing is started."""
        body = {"parameters": parameters, "resources": resources, "cluster": cluster}
        return wire.read(ScriptView, await self._transport.send(wire.render(name, body, version)))


class AsyncClusters:
    """The Slurm clusters, as last seen by the gateway."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self) -> list[ClusterView]:
        """Each with partitions, nodes and free GPUs by type; `polled_at` says how old that is."""
        return wire.read(Page[ClusterView], await self._transport.send(wire.get("/clusters"))).items

    async def get(self, name: str) -> ClusterView:
        return wire.read(ClusterView, await self._transport.send(wire.get(f"/clusters/{wire.quoted(name)}")))


class AsyncImages:
    """The container images of the recipes."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self, *, cluster: str | None = None, name: str | None = None) -> list[Image]:
        """Every digest that the gateway knows, the newest of a name first: new sessions get that one."""
        call = wire.get("/images", cluster=cluster, name=name)
        return wire.read(Page[Image], await self._transport.send(call)).items
