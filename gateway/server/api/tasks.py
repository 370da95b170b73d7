"""`/api/v1/tasks`: batches of requests to a session."""

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from gateway.core import files, tasks
from gateway.core.tasks import Asked
from gateway.model.api import Page
from gateway.model.task import TaskView, view_of
from gateway.server.api.sessions import Key
from gateway.web import ranges
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import problems

router = APIRouter(prefix="/tasks", tags=["tasks"])

Id = Annotated[str, Path(description="Id of the task.", max_length=63)]
_EXAMPLE = ('{"prompt": "Once upon a time", "max_tokens": 20}', '{"messages": [{"role": "user", "content": "Hello"}]}')
_LINES = {"schema": {"type": "string"}, "example": "".join(f"{line}\n" for line in _EXAMPLE)}
_RESULTS = {
    "description": "One line of JSON a line of the input, in its order; by `Range` a part of it.",
    "content": {ranges.JSONL: {"schema": {"type": "string"}}},
}


class Wanted(BaseModel):
    """What is said of a new task beside its lines."""

    model_config = ConfigDict(extra="forbid")

    session: str = Field(description="Id or name of the session that answers.")
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"] | None = Field(
        None, description="What every line asks for; unset: each line says."
    )
    concurrency: int | None = Field(None, ge=1, le=4096, description="Lines asked at once, at most.")
    window: str = Field("7d", description="Within what time, such as 90m, 24h or 7d.", max_length=8)
    name: str = Field("prompts.jsonl", description="What you call the lines.", max_length=255)


@router.post(
    "",
    operation_id="createTask",
    summary="Ask a session many things",
    status_code=201,
    responses=problems(403, 404, 409, 413, 422, 503),
    openapi_extra={"requestBody": {"required": True, "content": {ranges.JSONL: _LINES}}},
)
async def create(
    gateway: Gw,
    caller: Caller,
    request: Request,
    response: Response,
    wanted: Annotated[Wanted, Query()],
    key: Key = None,
) -> TaskView:
    """The body is JSONL. The model of every line is the session's.

    A line is the body of a request (`messages`, `prompt` or `input`, and what else the server knows), a text in
    quotation marks, or a whole request as OpenAI's Batch API has it.
    Durable when it is answered. If any line is not as it must be, `errors` names them, and nothing is kept.
    """
    asked = Asked(
        session=wanted.session, endpoint=wanted.endpoint or "", concurrency=wanted.concurrency, window=wanted.window
    )
    try:
        task, created = await tasks.create(gateway, caller, asked, wanted.name, request.stream(), key)
    except ClientDisconnect as error:
        raise ConnectionAbortedError("the caller left") from error
    response.headers["Location"] = f"/api/v1/tasks/{task.id}"
    if not created:
        response.headers["Idempotency-Replayed"] = "true"
    return view_of(task)


@router.get("", operation_id="listTasks", summary="List your tasks", responses=problems(422))
async def list_tasks(
    gateway: Gw,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(description="`next` of the page before.", max_length=63)] = None,
) -> Page[TaskView]:
    """Newest first; operators see everybody's."""
    found, more = await tasks.find(gateway, caller, after=cursor, limit=limit)
    return Page[TaskView](items=[view_of(one) for one in found], next=found[-1].id if more else None)


@router.get("/{id}", operation_id="getTask", summary="Get a task", responses=problems(404))
async def get(gateway: Gw, caller: Caller, id: Id) -> TaskView:  # noqa: A002 - its name in the path
    """Where it is, and how many lines are done."""
    return view_of(await tasks.get(gateway, caller, id))


@router.post("/{id}/cancel", operation_id="cancelTask", summary="Cancel a task", responses=problems(404))
async def cancel(gateway: Gw, caller: Caller, id: Id) -> TaskView:  # noqa: A002 - its name in the path
    """Nothing new is asked; what is done is kept. In any phase, any number of times."""
    return view_of(await tasks.cancel(gateway, caller, id))


@router.delete(
    "/{id}",
    operation_id="deleteTask",
    summary="Forget a task",
    status_code=204,
    response_class=Response,
    responses=problems(404, 409),
)
async def delete(gateway: Gw, caller: Caller, id: Id) -> None:  # noqa: A002 - its name in the path
    """An ended one, with its lines and its results."""
    await tasks.delete(gateway, caller, id)


@router.head("/{id}/results", include_in_schema=False)
@router.get(
    "/{id}/results",
    operation_id="getTaskResults",
    summary="Read the results of a task",
    response_class=Response,
    responses={200: _RESULTS, 206: {"description": "The range that was asked for."}, **problems(403, 404, 409)},
)
async def results(gateway: Gw, caller: Caller, request: Request, id: Id) -> Response:  # noqa: A002 - its name there
    """Answers and errors, each with its `custom_id`. There once the task has ended, whatever it ended as."""
    file = await tasks.outcome(gateway, caller, id)
    return ranges.serve(request, file, partial(files.content, gateway, file))
