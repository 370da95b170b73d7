"""What people see while a session comes up: its phase, why it waits, its place in the queue, the time it took."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import click

from gateway.cli import output
from gateway.cli.errors import INTERRUPTED

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gateway.model.api import SessionView
    from gateway.sdk import Session

Show = Callable[["Session"], None]


def wait(
    session: "Session", until: Literal["ready", "ended"], timeout: float | None, *, quiet: bool = False
) -> "Session":
    """Wait with progress on stderr. Ctrl-C leaves the session alone and says how to go on; exit code 130 then."""
    try:
        if quiet:
            return session.wait(until, timeout)
        with shown(session.view) as show:
            return session.wait(until, timeout, on_change=show)
    except KeyboardInterrupt:
        name = session.name
        output.note(f"\nSession {name} goes on. Wait again: sluice wait {name}   Stop it: sluice stop {name}")
        raise click.exceptions.Exit(INTERRUPTED) from None


@contextmanager
def shown(view: "SessionView") -> Iterator[Show]:
    """A live line on a terminal, a line for every change elsewhere."""
    if not output.interactive(err=True):
        yield _Lines()
        return
    from rich.live import Live

    line = _Live(view)
    with Live(get_renderable=line.render, console=output.console(err=True), refresh_per_second=8, transient=True):
        yield line


def describe(view: "SessionView") -> str:
    """The phase and, in words, why it is not further: `queued (place 3 in the queue). Jobs of ...`."""
    from gateway.model.pending import explain

    why = view.message
    if view.phase == "queued" and not why:
        why = explain(view.reason)
    if view.phase == "starting":
        state = view.conditions.get("EndpointReachable")
        nodes = f"on {view.job.nodes}" if view.job.nodes else ""
        why = state.message if state is not None and not state.status else why or nodes
    place = f" (place {view.queue_position} in the queue)" if view.queue_position and view.phase == "queued" else ""
    unknown = view.conditions.get("SchedulerReachable")
    if unknown is not None and not unknown.status:
        place += " (Slurm does not answer now)"
    return f"{view.phase}{place}{f'. {why}' if why else ''}"


class _Lines:
    """Every change once, with the time since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._last = ""

    def __call__(self, session: "Session") -> None:
        text = describe(session.view)
        if text != self._last:
            output.note(f"[{time.monotonic() - self._start:5.1f} s] {session.name} {text}")
            self._last = text


class _Live:
    """One line with a spinner that goes on turning between changes."""

    def __init__(self, view: "SessionView") -> None:
        from rich.spinner import Spinner

        self._start = time.monotonic()
        self._view = view
        self._spinner = Spinner("dots" if (sys.stderr.encoding or "").lower().startswith("utf") else "line")

    def __call__(self, session: "Session") -> None:
        self._view = session.view

    def render(self) -> "RenderableType":
        from rich.text import Text

        took = output.span(time.monotonic() - self._start)
        self._spinner.update(text=Text.from_ansi(f"{self._view.name} {describe(self._view)}  {took}"))
        return self._spinner
