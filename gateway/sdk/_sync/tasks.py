# Made from gateway/sdk/_async/tasks.py by `python gateway/sdk/generate.py`: change that one.
"""Batches of requests to a session: JSONL in, JSONL out, in order."""

import json
import time
from collections.abc import Callable, Generator
from contextlib import closing
from time import sleep
from typing import Any
from uuid import uuid4

from gateway.errors import SluiceError, TimedOut, Unavailable
from gateway.model.api import Page
from gateway.model.task import TaskView
from gateway.sdk import wire
from gateway.sdk._sync.transport import Transport
from gateway.sdk.lines import Lines, content

PAUSE, LONGEST_PAUSE = 0.25, 2.0
_BEHIND_THE_END = 416


class Tasks:
    """Tasks: pieces of work that the gateway gives to ready sessions."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        session: str,
        lines: Lines,
        *,
        endpoint: str | None = None,
        concurrency: int | None = None,
        window: str | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> TaskView:
        """Ask the session each line; durable when this returns, and never begun twice, however often it is tried.

        `lines`: a file of them (Path), or prompts, bodies of requests, or requests as OpenAI's Batch API has them.
        SessionNotFound; Invalid names the lines that are not as they must be.
        """
        said = {"endpoint": endpoint, "concurrency": concurrency, "window": window, "name": name}
        call = wire.Call(
            method="POST",
            path="/tasks",
            params={"session": session, **{key: value for key, value in said.items() if value is not None}},
            content=content(lines),
            headers={"Idempotency-Key": idempotency_key or uuid4().hex, "Content-Type": "application/jsonl"},
            repeatable=True,
        )
        return wire.read(TaskView, self._transport.send(call))

    def get(self, task_id: str) -> TaskView:
        """Where it is. TaskNotFound."""
        return wire.read(TaskView, self._transport.send(wire.get(_task(task_id))))

    def list(self, *, page_size: int = 100) -> Generator[TaskView, None, None]:
        """All of yours, newest first, page by page as they are asked for."""
        cursor: str | None = None
        while True:
            call = wire.get("/tasks", limit=page_size, cursor=cursor)
            page = wire.read(Page[TaskView], self._transport.send(call))
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def cancel(self, task_id: str) -> TaskView:
        """Nothing new is asked; what is done is kept."""
        call = wire.Call(method="POST", path=f"{_task(task_id)}/cancel", repeatable=True)
        return wire.read(TaskView, self._transport.send(call))

    def delete(self, task_id: str) -> None:
        """Forget an ended one with its results. Conflict while it is live."""
        self._transport.send(wire.Call(method="DELETE", path=_task(task_id)))

    def wait(
        self,
        task_id: str,
        *,
        timeout: float | None = None,
        on_change: Callable[[TaskView], None] | None = None,
    ) -> TaskView:
        """Until it has ended, also over restarts of the gateway. TimedOut after `timeout` seconds; the task goes on."""
        until = time.monotonic() + timeout if timeout is not None else None
        before, pause = None, PAUSE
        while True:
            try:
                view = self.get(task_id)
            except Unavailable:
                if before is None:
                    raise  # it never answered: that is no restart
            else:
                if view != before and on_change is not None:
                    on_change(view)
                before = view
                if view.phase.ended:
                    return view
            if until is not None and time.monotonic() + pause > until:
                raise TimedOut(f"the task {task_id} has not ended within {timeout:g} seconds", hint="It goes on.")
            sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    def download(self, task_id: str, *, start: int = 0, patience: float = 60.0) -> Generator[bytes, None, None]:
        """Its results as they are kept, a line of JSON a line of the input, from the byte `start` on.

        What breaks off is gone on with where it was, for `patience` seconds without a byte.
        """
        at, since = start, time.monotonic()
        while True:
            headers = {"Range": f"bytes={at}-"} if at else {}
            good = frozenset({_BEHIND_THE_END})  # there is nothing more
            call = wire.Call(method="GET", path=f"{_task(task_id)}/results", headers=headers, good=good)
            try:
                with closing(self._transport.pieces(call)) as pieces:
                    for piece in pieces:
                        at, since = at + len(piece), time.monotonic()
                        yield piece
            except Unavailable:
                if time.monotonic() > since + patience:
                    raise
                sleep(PAUSE)
            else:
                return

    def results(self, task_id: str) -> Generator[dict[str, Any], None, None]:
        """Its results, each with `custom_id`, `response` and `error`, in the order of its lines."""
        rest = b""
        with closing(self.download(task_id)) as pieces:
            for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield dict(json.loads(line))
        if rest:
            raise SluiceError("the results broke off")


def _task(task_id: str) -> str:
    return f"/tasks/{wire.quoted(task_id)}"
