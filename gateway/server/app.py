"""The server: the REST control plane under /api/v1, and the reconcile loop beside it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from gateway.core.context import Gateway
from gateway.core.reading import Reading
from gateway.core.reconcile import Reconciler
from gateway.identity.opening import open_callers
from gateway.model.health import Pulse
from gateway.model.principal import Scope
from gateway.server.actions import naming
from gateway.server.api import (
    audit,
    auth,
    clusters,
    events,
    health,
    images,
    logs,
    me,
    metrics,
    policy,
    projects,
    recipes,
    secrets,
    sessions,
    tasks,
    tokens,
    users,
    volumes,
)
from gateway.server.api.reads import Quick
from gateway.web import audit as audit_page
from gateway.web import context, docs, refusals, signin
from gateway.web.app import Part, Web, api, background, read_or_write
from gateway.web.caller import SAFE
from gateway.web.openapi import Api

PREFIX = "/api/v1"
OPEN = frozenset({f"{PREFIX}/health/live", f"{PREFIX}/auth", f"{PREFIX}/auth/munge", f"{PREFIX}/auth/session"})
_PEOPLE = tuple(f"{PREFIX}/{place}" for place in ("users", "projects", "tokens", "secrets", "volumes"))
_TASKS = f"{PREFIX}/tasks"
_TAGS = [
    {"name": "sessions", "description": "Start recipes and use what they give: life cycle, scripts, logs."},
    {"name": "tasks", "description": "Batches of requests to a session: JSONL in, JSONL out, in order."},
    {"name": "events", "description": "What happens to sessions, pushed as it happens; readers resume by id."},
    {"name": "recipes", "description": "The catalogue: what can be started, and with which parameters."},
    {"name": "images", "description": "The container images of the recipes, as they are on the clusters."},
    {"name": "clusters", "description": "Partitions, nodes and free GPUs, as last seen."},
    {"name": "identity", "description": "Who you are, tokens, projects and users."},
    {"name": "volumes", "description": "Named directories of people and projects, which sessions mount."},
    {"name": "policies", "description": "Who may do what, and why."},
    {"name": "audit", "description": "Who did what, and what was refused: a chain of rows that can be verified."},
    {"name": "health", "description": "For supervisors and load balancers."},
]
_DESCRIPTION = """\
Sluice turns *recipes* into Slurm jobs, and jobs into *sessions* that people and programs can use.

Every call but `health/live` and `auth` needs `Authorization: Bearer <token>`; `sluice env` prints it. Errors are
`application/problem+json` with a stable `code`; `retryable` says whether the same call may succeed later.
Model servers answer under `/v1` as OpenAI's API does, and every service under `/s/<session>/`.
"""


def routes() -> Api:
    """The routes of /api/v1 without a gateway: what OpenAPI describes."""
    app = api(title="Sluice", prefix=PREFIX, description=_DESCRIPTION, tags=_TAGS, open_paths=OPEN)
    people = me, auth, tokens, projects, users, secrets, volumes, policy, audit
    for module in (recipes, sessions, tasks, logs, events, images, clusters, *people, health, metrics):
        app.include_router(module.router, prefix=PREFIX)
    return app


def needs(method: str, path: str) -> Scope | None:
    """What a token must be good for: anybody may ask who they are; who changes people or secrets needs `admin`."""
    if path == f"{PREFIX}/me" or (method in SAFE and path.startswith(f"{PREFIX}/health")):
        return None
    if path.startswith(_PEOPLE) and method not in SAFE:
        # A token may revoke itself, whatever it is good for: the use case looks.
        return None if method == "DELETE" and path.startswith(f"{PREFIX}/tokens/") else Scope.ADMIN
    if path == _TASKS or path.startswith(f"{_TASKS}/"):
        return Scope.INFERENCE
    if path.startswith(f"{PREFIX}/policies"):
        return Scope.READ  # a question changes nothing, also where it is too long for an address
    return read_or_write(method, path)


def rest(gateway: Gateway) -> Api:
    """The FastAPI app of /api/v1."""
    app = routes()
    context.hold(app, gateway)
    app.state.reading = Reading(gateway.db)
    docs.install(app, PREFIX)
    return app


def part(gateway: Gateway) -> Part:
    """The server as a part of a frame. Its loop ends between acts: what was begun is done and recorded."""
    app, reconciler = rest(gateway), Reconciler(gateway)
    app.state.reconciler = reconciler

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with (
            background("witness", gateway.witness.run),
            background("feed", gateway.feed.run),
            background("reconcile", reconciler.run),
        ):
            yield

    async def check() -> Mapping[str, Pulse]:
        return {"database": await health.check_database(gateway)}

    pages = docs.paths(PREFIX)
    return Part(
        name="server",
        prefixes=(PREFIX,),
        app=Quick(app, app.state.reading, PREFIX),
        open=OPEN,
        guarded=frozenset({f"{PREFIX}/auth/munge", f"{PREFIX}/auth/session"}),
        streams=lambda path: path == _TASKS,
        browser=lambda path: path.startswith(pages),
        lifespan=lifespan,
        check=check,
        scope=needs,
        refused=refusals.teller(gateway, naming(app)),
    )


def app(gateway: Gateway) -> Web:
    """The server on a port of its own."""
    parts = part(gateway), signin.part(gateway), audit_page.part(gateway)
    return Web(parts, open_callers(gateway), gateway.settings.serve)
