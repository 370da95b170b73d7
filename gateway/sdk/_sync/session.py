# Made from gateway/sdk/_async/session.py by `python gateway/sdk/generate.py`: change that one.
"""One session: what it is now, waiting for it, its log, its end."""

from collections.abc import Callable, Generator
from contextlib import closing
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Literal

from gateway.errors import NotReady, Unavailable
from gateway.model.api import EventView, LogChunk, ScriptView, SessionView
from gateway.sdk import following, wire
from gateway.sdk._sync.transport import Transport

if TYPE_CHECKING:
    from openai import OpenAI


class Session:
    """A session as last seen; `refresh` looks again. `view` has every field of the API."""

    def __init__(self, transport: Transport, view: SessionView) -> None:
        self._transport = transport
        self.view = view

    @property
    def id(self) -> str:
        return self.view.id

    @property
    def name(self) -> str:
        return self.view.name

    @property
    def phase(self) -> str:
        """requested, queued, starting, ready (batch: running), stopping, succeeded, failed or stopped."""
        return self.view.phase

    @property
    def ended(self) -> bool:
        return self.view.ended

    @property
    def model(self) -> str | None:
        """The name under which `/v1` serves it; None if it serves no model."""
        return self.view.model

    @property
    def url(self) -> str:
        """Where the session's own pages and API are reached, with the same token."""
        return f"{self._transport.url}/s/{self.id}/"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.phase}>"

    def refresh(self) -> "Session":
        """Look again."""
        response = self._transport.send(wire.get(f"/sessions/{self.id}"))
        self.view = wire.read(SessionView, response)
        return self

    def wait(
        self,
        until: Literal["ready", "ended"] = "ready",
        timeout: float | None = None,
        *,
        on_change: "Callable[[Session], None] | None" = None,
    ) -> "Session":
        """Wait until the session is ready (a batch session: runs or is done), or has ended.

        `on_change` is called whenever something that can be seen has changed. Restarts of the gateway are sat out;
        after five minutes without an answer it is Unavailable. `timeout` in seconds, None: as long as it takes.
        SessionFailed if the session ends otherwise, TimedOut if it does not happen in time.
        """
        start = answered = monotonic()
        deadline = None if timeout is None else start + timeout
        shown: SessionView | None = None
        with closing(self._pulse(deadline)) as pulse:
            for _ in pulse:
                try:
                    self.refresh()
                except Unavailable:
                    if monotonic() - answered > following.GIVE_UP:
                        raise
                else:
                    answered = monotonic()
                    if on_change is not None and following.changed(shown, self.view):
                        on_change(self)
                    shown = self.view
                    if following.reached(self.view, until):
                        return self
                if deadline is not None and monotonic() >= deadline:
                    break
        raise following.late(self.view, until, monotonic() - start)

    def stop(self) -> "Session":
        """Ask for its end; any number of times. `wait("ended")` waits for it."""
        self.view = wire.read(SessionView, self._transport.send(wire.stop(self.id)))
        return self

    def delete(self, *, files: bool = False) -> None:
        """Forget the ended session; with `files` its directory on the cluster goes, too. Conflict while it is live."""
        self._transport.send(wire.delete(self.id, files=files))

    def script(self) -> ScriptView:
        """What was, or will be, sent to Slurm for it."""
        return wire.read(ScriptView, self._transport.send(wire.get(f"/sessions/{self.id}/script")))

    def events(self, *, after: int = 0, follow: bool = False) -> Generator[EventView, None, None]:
        """What happened to the session, oldest first; with `follow` until it has ended."""
        return follow_events(self._transport, self.id, after=after, follow=follow)

    def logs(
        self,
        *,
        follow: bool = False,
        file: Literal["service", "job"] = "service",
        tail: int | None = None,
        attempt: int | None = None,
    ) -> Generator[str, None, None]:
        """The log in pieces of text; with `follow` until the session has ended and all of it is out.

        `service` is what the program wrote, `job` what Slurm and the agent did. `tail`: only the last lines.
        """
        offset, wanted, name = following.tail_offset(tail), tail, ""
        pause, answered = following.FIRST_PAUSE, monotonic()
        while True:
            over = self.ended or not follow
            call = wire.get(f"/sessions/{self.id}/logs", file=file, offset=offset, attempt=attempt)
            try:
                chunk = wire.read(LogChunk, self._transport.send(call))
                answered = monotonic()
                if name and chunk.file != name:  # the job started anew, with a log of its own
                    name, offset = chunk.file, 0
                    continue
                if chunk.size:
                    text = chunk.text if wanted is None else following.last_lines(chunk.text, wanted)
                    name, offset, wanted = chunk.file, chunk.next, None
                    if text:
                        pause = following.FIRST_PAUSE
                        yield text
                if chunk.next < chunk.size and chunk.text:
                    continue
                if over:
                    return
                sleep(pause)
                self.refresh()
            except Unavailable:
                if not follow or monotonic() - answered > following.GIVE_UP:
                    raise
                sleep(pause)
            pause = min(2 * pause, following.LONGEST_PAUSE)

    def openai(self, **options: Any) -> "OpenAI":
        """An OpenAI client on the gateway's `/v1`; use `model=session.model`. NotReady if it serves no model."""
        if self.view.model is None:
            raise NotReady(f"session {self.name} serves no model", hint=f"It is reached at {self.url}")
        return openai_client(self._transport, **options)

    def _pulse(self, deadline: float | None) -> Generator[None, None, None]:
        """Whenever it is worth to look: at once, at every event, and now and then when there is no stream of events."""
        last, pause = "", following.FIRST_PAUSE
        yield
        while True:
            left = None if deadline is None else deadline - monotonic()
            path, patience = f"/sessions/{self.id}/events", following.read_timeout(left)
            try:
                with closing(self._transport.events(path, after=last, read_timeout=patience, params={})) as events:
                    for event in events:
                        pause = following.FIRST_PAUSE
                        if event is not None:
                            last = event.id or last
                        yield
            except Unavailable:
                left = None if deadline is None else deadline - monotonic()
            sleep(pause if left is None else max(0.0, min(pause, left)))
            pause = min(2 * pause, following.LONGEST_PAUSE)
            yield


def follow_events(
    transport: Transport, ref: str | None, *, after: int | None, follow: bool
) -> Generator[EventView, None, None]:
    """Events of one session until it has ended, or of all of the caller's; resumed where a lost connection broke off.

    Without `follow` only those that are there already.
    """
    path = "/events" if ref is None else f"/sessions/{wire.quoted(ref)}/events"
    params = {"follow": "true" if follow else "false", **({} if ref is None else {"until_end": "true"})}
    last, pause, answered = "" if after is None else str(after), following.FIRST_PAUSE, monotonic()
    while True:
        try:
            stream = transport.events(path, after=last, read_timeout=following.PATIENCE, params=params)
            with closing(stream) as events:
                for event in events:
                    answered, pause = monotonic(), following.FIRST_PAUSE
                    if event is not None:
                        last = event.id or last
                        yield wire.parse(EventView, event.data, transport.url + path)
            if not follow or (ref is not None and _has_ended(transport, ref)):
                return
        except Unavailable:
            if not follow or monotonic() - answered > following.GIVE_UP:
                raise
        sleep(pause)
        pause = min(2 * pause, following.LONGEST_PAUSE)


def _has_ended(transport: Transport, ref: str) -> bool:
    """Whether the stream ended because the session did, and not because the gateway is being stopped."""
    response = transport.send(wire.get(f"/sessions/{wire.quoted(ref)}"))
    return wire.read(SessionView, response).ended


def openai_client(transport: Transport, **options: Any) -> "OpenAI":
    """The OpenAI client of the optional extra `openai`, with the gateway's address and token."""
    from openai import OpenAI  # noqa: PLC0415 -- an optional extra, and slow to import

    if "http_client" not in options:  # by the same way, also where that is a socket or a CA of one's own
        options["http_client"] = transport.another()
    return OpenAI(base_url=f"{transport.base}/v1", api_key=transport.token or "none", **options)
