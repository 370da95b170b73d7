"""`sluice batch`: ask a session many things, and get the answers in order."""

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli import begun, complete, output
from gateway.cli.errors import FAILED, INTERRUPTED, OK, TIMED_OUT
from gateway.cli.options import timeout_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.model.task import TaskView
    from gateway.sdk import Sluice

_ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_ENDS = {"completed": "green", "failed": "red", "cancelled": "bright_black", "expired": "red"}
_LOST = {"failed", "cancelled", "expired"}
_GOES_ON = "Batch {} was begun by an earlier run of this command, and is gone on with (--again: a new one)."
_task = click.argument("task", shell_complete=complete.tasks)
_output = click.option(
    "--output",
    "-o",
    "target",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="File for the results; unset: they are printed. What is there already is gone on with.",
)


@click.group()
def batch() -> None:
    """Batches: a file of prompts to a session, and its answers in order.

    A line of the file is the body of a request ({"messages": …}, {"prompt": …} or {"input": …}, and what else the
    server knows), a text in quotation marks, or a request as OpenAI's Batch API has it. The gateway asks them over all
    replicas of the session and keeps the results, whatever ends meanwhile.
    """


@batch.command()
@click.argument("prompts", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--session", required=True, metavar="SESSION", help="Who answers.", shell_complete=complete.sessions)
@_output
@click.option("--endpoint", type=click.Choice(_ENDPOINTS), help="What every line asks for; unset: each line says.")
@click.option("--concurrency", type=click.IntRange(1, 4096), help="Lines asked at once, at most.")
@click.option("--window", metavar="TIME", help="Within what time, such as 90m, 24h or 7d; unset: 7d.")
@click.option("--detach", is_flag=True, help="Do not wait; print the id of the task.")
@click.option("--idempotency-key", metavar="TEXT", help="The same key and file give the same task, once.")
@click.option("--again", is_flag=True, help="A new batch, also if an earlier run of this command did not see its end.")
@timeout_option
@output.json_option
def run(
    *,
    prompts: Path,
    session: str,
    target: Path | None,
    endpoint: str | None,
    concurrency: int | None,
    window: str | None,
    detach: bool,
    idempotency_key: str | None,
    again: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Ask SESSION each line of PROMPTS (JSONL), and write down the answers in the same order.

    \b
    sluice batch run prompts.jsonl --session demo -o results.jsonl
    sluice batch run prompts.jsonl --session demo --detach

    Ctrl-C leaves the batch running. The same command, given again before its results were handed over, goes on with the
    batch that it began, whether it was interrupted or killed. Exit code 0 when all is done, also where lines have
    errors for results; 1 if the batch failed, was cancelled or expired.
    """
    from gateway.cli.client import connect

    with connect(timeout=300.0) as sluice:
        create = partial(
            sluice.tasks.create,
            session,
            prompts,
            endpoint=endpoint,
            concurrency=concurrency,
            window=window,
            name=prompts.name,
        )
        if idempotency_key is not None:
            view, goes_on = create(idempotency_key=idempotency_key), False
        else:
            found = begun.begin(prompts, (sluice.url, session, endpoint, concurrency, window))
            found = found.anew() if again else found
            view = create(idempotency_key=found.key)
            goes_on = view.id == found.task
            if goes_on and view.phase.value in _LOST:
                found, goes_on = found.anew(), False
                view = create(idempotency_key=found.key)
            found.known_as(view.id)
        if detach:
            output.emit(view) if as_json else click.echo(view.id)
            begun.forget(view.id)
            return
        if not as_json:
            output.note(_GOES_ON.format(view.id) if goes_on else f"Batch {view.id} was accepted: {view.total} lines.")
        _finish(sluice, view, target, timeout, as_json=as_json)


@batch.command("list")
@output.json_option
def list_(*, as_json: bool) -> None:
    """List your batches, newest first. With --json: the array that the API gives."""
    from gateway.cli.client import connect

    with connect() as sluice:
        found = list(sluice.tasks.list())
    if as_json:
        output.emit(found)
        return
    rows = [(view.id, _phase(view), _counts(view), view.message, output.age(view.created_at)) for view in found]
    output.table(("id", "phase", "lines", "what", "age"), rows, empty="There are no batches: sluice batch run --help")


@batch.command()
@_task
@output.json_option
def status(*, task: str, as_json: bool) -> None:
    """Show where TASK is."""
    from gateway.cli.client import connect

    with connect() as sluice:
        view = sluice.tasks.get(task)
    if as_json:
        output.emit(view)
        return
    output.fields(
        [
            ("batch", view.id),
            ("phase", _phase(view)),
            ("message", view.message),
            ("lines", _counts(view)),
            ("session", view.session),
            ("endpoint", view.endpoint),
            ("created", view.created_at),
            ("expires", None if view.ended_at else view.expires_at),
            ("ended", view.ended_at),
            ("answers", view.output_file),
            ("errors", view.error_file),
        ]
    )


@batch.command()
@_task
@_output
@timeout_option
@output.json_option
def wait(*, task: str, target: Path | None, timeout: float | None, as_json: bool) -> None:
    """Wait for the end of TASK; with --output its results follow. Exit codes as those of `run`."""
    from gateway.cli.client import connect

    with connect() as sluice:
        _finish(sluice, sluice.tasks.get(task), target, timeout, as_json=as_json, printing=False)


@batch.command()
@_task
@_output
def results(*, task: str, target: Path | None) -> None:
    """Print the results of an ended TASK, or write them to a file: a line of JSON a line of the input, in its order."""
    from gateway.cli.client import connect

    with connect() as sluice:
        _write(sluice, task, target)
    begun.forget(task)


@batch.command()
@_task
@output.json_option
def cancel(*, task: str, as_json: bool) -> None:
    """Ask nothing more of TASK; what is done is kept."""
    from gateway.cli.client import connect

    with connect() as sluice:
        view = sluice.tasks.cancel(task)
    begun.forget(task)
    output.emit(view) if as_json else click.echo(f"Batch {view.id} is {_phase(view)}.")


@batch.command()
@click.argument("tasks", nargs=-1, required=True, shell_complete=complete.tasks)
def delete(*, tasks: tuple[str, ...]) -> None:
    """Forget ended TASKS, with their lines and results."""
    from gateway.cli.client import connect

    with connect() as sluice:
        for task in tasks:
            sluice.tasks.delete(task)
            begun.forget(task)
            click.echo(f"Batch {task} is forgotten.")


def _finish(
    sluice: "Sluice",
    view: "TaskView",
    target: Path | None,
    timeout: float | None,
    *,
    as_json: bool,
    printing: bool = True,
) -> None:
    """Wait with progress on stderr, then hand over the results; the exit code says how it ended."""
    from gateway.errors import TimedOut

    try:
        with _Shown(view, quiet=as_json) as show:
            view = sluice.tasks.wait(view.id, timeout=timeout, on_change=show)
        if target is not None or (printing and not as_json):
            _write(sluice, view.id, target)
    except KeyboardInterrupt:
        again = f" -o {target}" if target is not None else ""
        output.note(f"\nBatch {view.id} goes on. Wait again: sluice batch wait {view.id}{again}")
        output.note(f"End it: sluice batch cancel {view.id}")
        raise click.exceptions.Exit(INTERRUPTED) from None
    except TimedOut as error:
        output.note(f"{error.message}. Wait again: sluice batch wait {view.id}")
        raise click.exceptions.Exit(TIMED_OUT) from None
    begun.forget(view.id)
    if as_json:
        output.emit(view)
    else:
        where = f" Results: {target}" if target is not None else f" Results: sluice batch results {view.id}"
        why = f" {view.message}." if view.message else ""
        output.note(f"Batch {view.id} is {_phase(view)}: {_counts(view)}.{why}{where}")
    raise click.exceptions.Exit(OK if view.phase == "completed" else FAILED)


def _write(sluice: "Sluice", task: str, target: Path | None) -> None:
    if target is None:
        for piece in sluice.tasks.download(task):
            click.echo(piece, nl=False)
        return
    part = target.with_name(f".{target.name}.{hashlib.sha256(task.encode()).hexdigest()[:8]}.part")
    start = part.stat().st_size if part.exists() else 0
    with part.open("ab") as file:
        for piece in sluice.tasks.download(task, start=start):
            file.write(piece)
    part.replace(target)


def _counts(view: "TaskView") -> str:
    if view.phase.value in _LOST and view.total is not None:
        return f"{view.completed} of {view.total} answered"
    done = view.completed + view.failed
    wrong = f", {view.failed} failed" if view.failed else ""
    return f"{done} of {view.total}{wrong}" if view.total is not None else f"{done}{wrong}"


def _phase(view: "TaskView") -> str:
    return output.styled(view.phase.value, fg=_ENDS.get(view.phase.value, "yellow"))


class _Shown:
    """Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, view: "TaskView", *, quiet: bool) -> None:
        self._view, self._quiet = view, quiet
        self._said = ""

    def __enter__(self) -> "Callable[[TaskView], None]":
        if self._quiet:
            return lambda _: None
        if not output.interactive(err=True):
            return self._line
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, console=output.console(err=True), transient=True)
        self._row = self._bar.add_task("", total=self._view.total)
        self._bar.start()
        return self._move

    def __exit__(self, *exc: object) -> None:
        if hasattr(self, "_bar"):
            self._bar.stop()

    def _move(self, view: "TaskView") -> None:
        words = view.message or view.phase.value
        self._bar.update(
            self._row, total=view.total, completed=view.completed + view.failed, description=words, refresh=True
        )

    def _line(self, view: "TaskView") -> None:
        """Every tenth of the way, and what it waits for."""
        tenth = 10 * (view.completed + view.failed) // (view.total or 1)
        said = f"{view.phase.value} {tenth} {view.message}"
        if said != self._said:
            self._said = said
            output.note(f"{view.phase.value}: {_counts(view)}{f'. {view.message}' if view.message else ''}")
