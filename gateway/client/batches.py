"""`/v1/files` and `/v1/batches`, as OpenAI's clients expect them: JSONL in, JSONL out."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from gateway.client.forms import Begin, Fields, pieces
from gateway.client.openai import BATCHES, FILES, render
from gateway.client.runner import Runner
from gateway.core import files, tasks
from gateway.core.context import Gateway
from gateway.core.files import Upload
from gateway.core.tasks import Asked
from gateway.errors import Invalid, NotFound, TooLarge
from gateway.model.principal import Principal
from gateway.model.principal import Scope as TokenScope
from gateway.model.task import KeptFile, Task, TaskPhase
from gateway.store import files as file_store
from gateway.web import ranges, refusals
from gateway.web.app import Part, background

if TYPE_CHECKING:
    from gateway.client.plane import Plane

MOST_BODY = 1 << 16
LONGEST_NUMBER = 9
MOST_LISTED, FILES_LISTED, BATCHES_LISTED = 10_000, 1000, 100
PURPOSES = frozenset({"batch"})
EXPIRES = "expires_after"


class _Wanted(msgspec.Struct):
    """The body of a new batch."""

    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None
    output_expires_after: object = None


class Batches:
    """The ASGI application."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._router = Router(
            [
                Route(FILES, self._upload, methods=["POST"]),
                Route(FILES, self._files, methods=["GET"]),
                Route(f"{FILES}/{{id}}", self._file, methods=["GET"]),
                Route(f"{FILES}/{{id}}", self._forget, methods=["DELETE"]),
                Route(f"{FILES}/{{id}}/content", self._content, methods=["GET"]),
                Route(BATCHES, self._create, methods=["POST"]),
                Route(BATCHES, self._batches, methods=["GET"]),
                Route(f"{BATCHES}/{{id}}", self._batch, methods=["GET"]),
                Route(f"{BATCHES}/{{id}}/cancel", self._cancel, methods=["POST"]),
            ],
            redirect_slashes=False,
            default=_nothing_here,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)

    # Files

    async def _upload(self, request: Request) -> Response:
        fields, upload, opened = Fields(), None, False
        try:
            async with AsyncExitStack() as stack:
                async for piece in pieces(request):
                    if isinstance(piece, Begin):
                        opened = piece.file is not None
                        if opened and upload is not None:
                            raise Invalid("there is more than one file", param="file")
                        if opened:
                            upload = await self._begin(stack, request, piece)
                        else:
                            fields.begin(piece.name)
                    elif opened and upload is not None:
                        await upload.write(piece)
                    else:
                        fields.add(piece)
                purpose = fields.all.get("purpose")
                if upload is None:
                    raise Invalid("you must provide a file", param="file")
                if purpose not in PURPOSES:
                    raise Invalid(f"purpose: it must be one of {', '.join(sorted(PURPOSES))}", param="purpose")
                if any(name.startswith(EXPIRES) for name in fields.all):
                    raise self._kept(EXPIRES)
                return JSONResponse(_file(await upload.finish()))
        except ClientDisconnect as error:
            raise ConnectionAbortedError("the caller left") from error

    async def _begin(self, stack: AsyncExitStack, request: Request, piece: Begin) -> Upload:
        if piece.name != "file":
            raise Invalid("the field of the file is called `file`", param="file")
        upload = await files.begin(self._gateway, _caller(request), piece.file or "")
        return await stack.enter_async_context(upload)

    async def _files(self, request: Request) -> Response:
        asked = request.query_params
        limit, order = _limit(request, FILES_LISTED, MOST_LISTED), asked.get("order", "desc")
        find = partial(file_store.find, purpose=asked.get("purpose"), after=asked.get("after"), oldest=order == "asc")
        found = await self._gateway.db.read(find, _caller(request), limit=limit + 1)
        return _page([_file(one) for one in found[:limit]], more=len(found) > limit)

    async def _file(self, request: Request) -> Response:
        return JSONResponse(_file(await files.get(self._gateway, _caller(request), request.path_params["id"])))

    async def _content(self, request: Request) -> Response:
        file = await files.get(self._gateway, _caller(request), request.path_params["id"])
        return ranges.serve(request, file, partial(files.content, self._gateway, file))

    async def _forget(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        await files.delete(self._gateway, _caller(request), file_id)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    def _kept(self, field: str) -> Invalid:
        """Who wants something gone by a certain time is not to believe that it will be."""
        days = self._gateway.settings.tasks.keep_days
        return Invalid(f"{field}: files are kept for {days} days here, or until they are deleted", param=field)

    # Batches

    async def _create(self, request: Request) -> Response:
        wanted = await _read(request)
        if wanted.output_expires_after is not None:
            raise self._kept(f"output_{EXPIRES}")
        asked = Asked(endpoint=wanted.endpoint, window=wanted.completion_window, about=wanted.metadata)
        task = await tasks.create_batch(self._gateway, _caller(request), asked, wanted.input_file_id)
        return JSONResponse(_batch(task))

    async def _batches(self, request: Request) -> Response:
        limit = _limit(request, 20, BATCHES_LISTED)
        found, more = await tasks.find(
            self._gateway, _caller(request), after=request.query_params.get("after"), limit=limit, own=True
        )
        return _page([_batch(one) for one in found], more=more)

    async def _batch(self, request: Request) -> Response:
        return JSONResponse(_batch(await tasks.get(self._gateway, _caller(request), request.path_params["id"])))

    async def _cancel(self, request: Request) -> Response:
        return JSONResponse(_batch(await tasks.cancel(self._gateway, _caller(request), request.path_params["id"])))


def part(gateway: Gateway, plane: "Plane") -> Part:
    """It as a part of a frame, with what works on the tasks beside it."""
    runner = Runner(gateway, plane)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with background("tasks", runner.run):
            yield

    return Part(
        name="batches",
        prefixes=(FILES, BATCHES),
        app=Batches(gateway),
        max_body=None,
        render=render,
        lifespan=lifespan,
        scope=lambda method, path: TokenScope.INFERENCE,  # noqa: ARG005 - whatever is done here is for it
        refused=refusals.teller(gateway),
    )


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    del receive, send
    raise NotFound(f"there is nothing at {scope['path']} for {scope['method']}")


def _caller(request: Request) -> Principal:
    found: Principal = request.state.caller
    return found


async def _read(request: Request) -> _Wanted:
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > MOST_BODY:
            raise TooLarge(f"the request is longer than {MOST_BODY >> 10} KiB")
    try:
        return msgspec.json.decode(data, type=_Wanted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"this is no batch: {error}", code="invalid_request") from error


def _limit(request: Request, usual: int, most: int) -> int:
    said = request.query_params.get("limit", str(usual))
    if not said.isascii() or not said.isdigit() or len(said) > LONGEST_NUMBER or not 1 <= int(said) <= most:
        raise Invalid(f"limit: a number from 1 to {most}", param="limit")
    return int(said)


def _page(data: list[dict[str, Any]], *, more: bool) -> Response:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return JSONResponse({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more})


def _at(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment is not None else None


def _file(file: KeptFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": _at(file.created_at),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


def _batch(task: Task) -> dict[str, Any]:
    ended: Mapping[str, int | None] = {
        f"{phase.value}_at": _at(task.ended_at) if task.phase is phase else None
        for phase in (TaskPhase.COMPLETED, TaskPhase.FAILED, TaskPhase.EXPIRED, TaskPhase.CANCELLED)
    }
    faults = [fault.model_dump() for fault in task.faults]
    return {
        "id": task.id,
        "object": "batch",
        "endpoint": task.endpoint,
        "errors": {"object": "list", "data": faults} if faults else None,
        "input_file_id": task.input_file,
        "completion_window": task.window,
        "status": task.phase.value,
        "output_file_id": task.output_file,
        "error_file_id": task.error_file,
        "created_at": _at(task.created_at),
        "in_progress_at": _at(task.started_at),
        "expires_at": _at(task.expires_at),
        "finalizing_at": _at(task.finalized_at),
        "cancelling_at": _at(task.cancelled_at),
        **ended,
        "request_counts": {"total": task.total or 0, "completed": task.completed, "failed": task.failed},
        "metadata": dict(task.about) or None,
    }
