"""`/api/v1/sessions`: start, list, look, stop, forget."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse

from gateway.core import openings, scaling, sessions
from gateway.core.reading import Reading
from gateway.model.api import (
    ExtendRequest,
    OpeningView,
    Page,
    ReplicaView,
    ScaleRequest,
    ScriptView,
    SessionRequest,
    SessionView,
    UpdateRequest,
)
from gateway.server.api import examples, reads
from gateway.server.api.reads import Listing
from gateway.store.views import view
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import example, problems

router = APIRouter(prefix="/sessions", tags=["sessions"])

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Any text of yours. The same request under the same key gives the session that is there already.",
        examples=["6f1c2b1e-training-run-42"],
    ),
]


IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", description="The `ETag` of what you have: 304 if it is still so.")
]
UNCHANGED = {"description": "It is as you have it (`If-None-Match`)."}


def reading_of(request: Request) -> Reading:
    found: Reading = request.app.state.reading
    return found


Reads = Annotated[Reading, Depends(reading_of)]


@router.post(
    "",
    operation_id="createSession",
    summary="Start a session",
    status_code=201,
    response_model=SessionView | ScriptView,
    responses={
        201: example(examples.SESSION, "Accepted, and kept: it will be submitted."),
        200: example(examples.SCRIPT, "With `dry_run`: what would be sent to Slurm."),
        **problems(404, 409, 413, 422, 503),
    },
)
async def create(
    gateway: Gw,
    caller: Caller,
    response: Response,
    request: Annotated[SessionRequest, Body(openapi_examples=examples.REQUESTS)],
    key: Key = None,
    *,
    dry_run: Annotated[bool, Query(description="Start nothing; answer with the script and its options.")] = False,
) -> SessionView | ScriptView:
    """Durable when it is answered.

    With an `Idempotency-Key` it may be repeated after any doubt: an answer that carries `Idempotency-Replayed: true`
    is about the session that was made the first time. Another request under the same key is a conflict (409).
    """
    if dry_run:
        response.status_code = 200
        return sessions.script_view(*await sessions.dry_run(gateway, caller, request))
    session, created = await sessions.create(gateway, caller, request, idempotency_key=key)
    response.headers["Location"] = f"/api/v1/sessions/{session.id}"
    if not created:
        response.headers["Idempotency-Replayed"] = "true"
    return view(session)


@router.get(
    "",
    operation_id="listSessions",
    summary="List your sessions",
    response_model=Page[SessionView],
    responses={
        200: example({"items": [examples.SESSION], "next": None}, "One page, with an `ETag`."),
        304: UNCHANGED,
        **problems(422),
    },
)
async def list_sessions(
    caller: Caller, reading: Reads, asked: Annotated[Listing, Query()], if_none_match: IfNoneMatch = None
) -> Response:
    """Newest first. Ask again with `cursor` set to `next` until `next` is null."""
    found, following = await reading.page(caller, asked.query())
    return reads.page(found, following, if_none_match)


@router.get(
    "/{ref}",
    operation_id="getSession",
    summary="Get a session",
    response_model=SessionView,
    responses={200: example(examples.SESSION, "The session, with an `ETag`."), 304: UNCHANGED, **problems(404)},
)
async def get(caller: Caller, reading: Reads, ref: str, if_none_match: IfNoneMatch = None) -> Response:
    """By its id, or by its name: a live session of the name first, else the newest."""
    return reads.session(await reading.one(caller, ref), if_none_match)


@router.get(
    "/{ref}/script",
    operation_id="getScript",
    summary="Get the script that was sent to Slurm",
    responses={
        200: {
            "description": "The script, with its options; as plain text if only that is accepted.",
            "content": {"application/json": {"example": examples.SCRIPT}, "text/plain": {}},
        },
        **problems(404),
    },
    response_model=ScriptView,
)
async def script(
    gateway: Gw, caller: Caller, ref: str, accept: Annotated[str, Header(include_in_schema=False)] = "*/*"
) -> ScriptView | Response:
    """Of the session's current attempt."""
    session = await sessions.get(gateway, caller, ref)
    found = await sessions.script(gateway, caller, ref)
    if accept.startswith("text/"):
        return PlainTextResponse(found.text)
    return sessions.script_view(session.plan, found)


@router.post(
    "/{ref}/stop",
    operation_id="stopSession",
    summary="Stop a session",
    status_code=202,
    responses={202: example(examples.SESSION, "Asked for; follow the events."), **problems(404)},
)
async def stop(gateway: Gw, caller: Caller, ref: str) -> SessionView:
    """In any phase, any number of times. The job is told to end, has its grace, and is then ended by Slurm."""
    return view(await sessions.stop(gateway, caller, ref))


@router.get(
    "/{ref}/jobs",
    operation_id="listSessionJobs",
    summary="The jobs of a session",
    responses=problems(404),
)
async def jobs(gateway: Gw, caller: Caller, ref: str) -> Page[ReplicaView]:
    """All that it has and had, by attempt: replicas, successors, and those before."""
    return Page(items=await scaling.jobs(gateway, caller, ref))


@router.post(
    "/{ref}/scale",
    operation_id="scaleSession",
    summary="Let more or fewer jobs serve a session",
    status_code=202,
    responses={202: example(examples.SESSION, "From now on; follow the events."), **problems(403, 404, 409, 422)},
)
async def scale(gateway: Gw, caller: Caller, ref: str, request: ScaleRequest) -> SessionView:
    """Between `min` and `max`, as many as there is to do for; `min: 0` lets it sleep while nobody uses it."""
    return view(await scaling.scale(gateway, caller, ref, request))


@router.post(
    "/{ref}/extend",
    operation_id="extendSession",
    summary="Keep a session that nobody uses",
    responses={200: example(examples.SESSION, "It is kept for so long."), **problems(403, 404, 409, 422)},
)
async def extend(gateway: Gw, caller: Caller, ref: str, request: ExtendRequest) -> SessionView:
    """It is not stopped for being idle before so many seconds have passed."""
    return view(await scaling.extend(gateway, caller, ref, timedelta(seconds=request.seconds)))


@router.post(
    "/{ref}/update",
    operation_id="updateSession",
    summary="Change what a session runs, without a gap",
    status_code=202,
    responses={202: example(examples.SESSION, "A job with it is started."), **problems(403, 404, 409, 422)},
)
async def update(gateway: Gw, caller: Caller, ref: str, request: UpdateRequest) -> SessionView:
    """A successor with the changes becomes ready and takes over, then its predecessor drains and ends.

    If it does not become ready, the session goes on as it was.
    """
    return view(await scaling.update(gateway, caller, ref, request))


@router.post(
    "/{ref}/resume",
    operation_id="resumeSession",
    summary="Start an ended session again",
    status_code=202,
    responses={202: example(examples.SESSION, "It is started."), **problems(403, 404, 409)},
)
async def resume(gateway: Gw, caller: Caller, ref: str) -> SessionView:
    """With the same plan, in the same directory, under the same id."""
    return view(await scaling.resume(gateway, caller, ref))


@router.post(
    "/{ref}/open",
    operation_id="openSession",
    summary="Open a session in a browser",
    responses=problems(403, 404, 503),
)
async def open_(gateway: Gw, caller: Caller, ref: str) -> OpeningView:
    """A link to its pages that lets a browser in once, within a minute; then the browser has a cookie for it."""
    return await openings.make(gateway, caller, ref)


@router.delete(
    "/{ref}",
    operation_id="deleteSession",
    summary="Forget a session",
    status_code=204,
    response_class=Response,
    responses=problems(404, 409, 503),
)
async def delete(
    gateway: Gw,
    caller: Caller,
    ref: str,
    *,
    files: Annotated[bool, Query(description="Remove its directory on the cluster, too.")] = False,
) -> None:
    """Only when it has ended. Its logs and outputs stay on the cluster unless `files` is set."""
    await sessions.delete(gateway, caller, ref, files=files)
