"""`sluice bench`: load on a session through /v1, what it took, the saved report, and runs beside each other."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from gateway.cli import complete, output
from gateway.cli.errors import FAILED, INTERRUPTED
from gateway.cli.options import duration

if TYPE_CHECKING:
    from gateway.model.bench import Metric
    from gateway.sdk.bench.run import Plan, Run

_DURATION = 30.0
_CONCURRENCY = (4.0,)


class _Bench(click.Group):
    """`sluice bench SESSION` is `sluice bench run SESSION`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return [
            *super().shell_complete(ctx, incomplete),
            *complete.sessions(ctx, click.Argument(["session"]), incomplete),
        ]


@click.group(cls=_Bench)
def bench() -> None:
    """Measure how fast a session answers: `sluice bench SESSION` (or `sluice bench run SESSION`).

    \b
    sluice bench demo                                  4 requests at any time, for 30 s
    sluice bench demo --concurrency 1,4,16             a sweep, one load after the other
    sluice bench demo --rate 5 --duration 2m           5 requests a second, answered or not
    sluice bench demo --prompts questions.jsonl --slo ttft=300ms,tpot=50ms
    sluice bench list
    sluice bench compare RUN RUN
    """


def _numbers(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...]:
    """`1,4,16` as numbers above 0."""
    del ctx, parameter
    try:
        found = tuple(float(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers, such as 1,4,16") from None
    if any(not 0 < number < float("inf") for number in found) or (text is not None and not found):
        raise click.BadParameter("numbers above 0, please")
    return found


def _whole_numbers(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...]:
    found = _numbers(ctx, parameter, text)
    if any(number != int(number) for number in found):
        raise click.BadParameter("whole numbers, please")
    return found


def _slo(ctx: click.Context, parameter: click.Parameter, text: str | None) -> "dict[Metric, float]":
    del ctx, parameter
    from gateway.model.bench import parse_slo

    try:
        return parse_slo(text) if text is not None else {}
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _runs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    del ctx, parameter
    from gateway.sdk.bench import store

    return [CompletionItem(name) for name in ["latest", *store.names()] if name.startswith(incomplete)]


@bench.command()
@click.argument("session", shell_complete=complete.sessions)
@click.option("--concurrency", callback=_whole_numbers, metavar="N[,N...]", help="Requests at any time.  [default: 4]")
@click.option("--rate", callback=_numbers, metavar="R[,R...]", help="Requests a second, whether answered or not.")
@click.option(
    "--burstiness",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="B",
    help="Of --rate: 1 is Poisson, less comes in bursts, more comes evenly.",
)
@click.option("--requests", type=click.IntRange(min=1), metavar="N", help="Requests of each load.")
@click.option("--duration", "seconds", type=duration, metavar="TIME", help="Time of each load.  [default: 30s]")
@click.option(
    "--prompt-tokens", type=click.IntRange(min=1), default=128, show_default=True, metavar="N", help="Of each prompt."
)
@click.option("--output-tokens", type=click.IntRange(min=1), metavar="N", help="Of each answer.  [default: 64]")
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="JSONL with `prompt` or `messages`.")
@click.option(
    "--endpoint", type=click.Choice(["chat", "completions"]), default="chat", show_default=True, help="What is called."
)
@click.option(
    "--ignore-eos/--no-ignore-eos",
    default=None,
    help="Let answers be as long as asked for.  [default: with made-up prompts]",
)
@click.option(
    "--warmup", type=click.IntRange(min=0), metavar="N", help="Uncounted requests first.  [default: N at once]"
)
@click.option("--slo", callback=_slo, metavar="METRIC=TIME,...", help="Count good requests: ttft, itl, tpot, e2e.")
@click.option("--timeout", type=duration, default=600.0, metavar="TIME", help="Longest request.  [default: 10m]")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of prompts and arrivals.")
@click.option("--label", default="", metavar="TEXT", help="A word about this run, for its report.")
@click.option("--output", "into", type=click.Path(path_type=Path), metavar="DIR", help="Save the report there.")
@output.json_option
def run(
    *,
    session: str,
    concurrency: tuple[float, ...],
    rate: tuple[float, ...],
    burstiness: float,
    prompts: Path | None,
    into: Path | None,
    as_json: bool,
    warmup: int | None,
    timeout: float,
    label: str,
    **asked: Any,
) -> None:
    """Put load on SESSION through /v1, print the figures, and save the report with its charts.

    Several values of --concurrency or --rate are measured one after the other. Ctrl-C ends the run early; what was
    measured until then is saved. The exit code is 1 if no request succeeded.
    """
    from gateway.errors import Invalid
    from gateway.model.bench import Load
    from gateway.sdk.bench import prompts as prompt_file
    from gateway.sdk.bench.run import Plan

    if concurrency and rate:
        raise click.UsageError("--concurrency and --rate are two kinds of load: give one of them.")
    loads = [Load(kind="open", rate=each, burstiness=burstiness) for each in rate] or [
        Load(kind="closed", concurrency=int(each)) for each in concurrency or _CONCURRENCY
    ]
    if into is not None and (into / "report.json").exists():
        raise Invalid(f"there is a report in {into} already")
    given = prompt_file.read(prompts, asked["endpoint"]) if prompts is not None else []
    plan = Plan(session, loads, _workload(prompts, **asked), given, warmup, timeout, label)
    done = _measured(plan, quiet=as_json)
    if not done.report.stages:
        raise KeyboardInterrupt
    _tell(done, into, as_json=as_json)


def _workload(prompts: Path | None, **asked: Any) -> Any:
    from gateway.model.bench import Workload

    made_up = prompts is None
    seconds = asked["seconds"] if asked["seconds"] is not None or asked["requests"] else _DURATION
    return Workload(
        endpoint=asked["endpoint"],
        prompts="synthetic" if prompts is None else prompts.name,
        prompt_tokens=asked["prompt_tokens"] if made_up else None,
        output_tokens=asked["output_tokens"] or (64 if made_up else None),
        ignore_eos=made_up if asked["ignore_eos"] is None else asked["ignore_eos"],
        seed=asked["seed"],
        requests=asked["requests"],
        seconds=seconds,
        slo=asked["slo"],
    )


def _measured(plan: "Plan", *, quiet: bool) -> "Run":
    from gateway.cli.bench_progress import measured

    return asyncio.run(measured(plan, quiet=quiet))


def _tell(done: "Run", into: Path | None, *, as_json: bool) -> None:
    from gateway.cli import bench_tables
    from gateway.sdk.bench import store

    place = store.save(done, into)
    report = store.load(str(place))
    if as_json:
        output.emit({"folder": str(place.resolve()), **report.model_dump(mode="json")})
    else:
        bench_tables.show(report)
        click.echo(f"Report: {place / store.PAGE}")
    if report.interrupted:
        raise click.exceptions.Exit(INTERRUPTED)
    if not any(stage.figures.succeeded for stage in report.stages):
        raise click.exceptions.Exit(FAILED)


@bench.command("list")
@output.json_option
def list_(*, as_json: bool) -> None:
    """List the runs that were saved, the newest first."""
    from gateway.cli import bench_tables
    from gateway.sdk.bench import store

    found = list(store.every())
    if as_json:
        output.emit(found)
    else:
        bench_tables.overview(found)


@bench.command()
@click.argument("run", shell_complete=_runs)
@click.option("--open", "opened", is_flag=True, help="Open its page in a browser.")
@output.json_option
def show(*, run: str, opened: bool, as_json: bool) -> None:
    """Show RUN again: its id, the beginning of it, `latest`, or the folder of a report."""
    from gateway.cli import bench_tables
    from gateway.sdk.bench import store

    report, page = store.load(run), store.find(run).resolve() / store.PAGE
    if as_json:
        output.emit(report)
        return
    bench_tables.show(report)
    click.echo(f"Report: {page}")
    if opened:
        _browse(page)


@bench.command()
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True, shell_complete=_runs)
@click.option("--output", "into", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with charts.")
@click.option("--open", "opened", is_flag=True, help="Open that page in a browser.")
@output.json_option
def compare(*, runs: Sequence[str], into: Path | None, opened: bool, as_json: bool) -> None:
    """Put runs side by side: each figure, and how far it is from the first run's."""
    from gateway.cli import bench_tables
    from gateway.errors import Invalid
    from gateway.sdk.bench import page, store
    from gateway.sdk.bench.compare import compare as beside

    if len(runs) < 2:  # noqa: PLR2004
        raise click.UsageError("There must be two runs or more.")
    reports = [store.load(run) for run in runs]
    found = beside(reports)
    if opened and into is None:
        into = store.folder() / "comparison.html"
    if into is not None:
        try:
            into.write_text(page.of_comparison(reports))
        except OSError as error:
            raise Invalid(f"cannot write {into}: {error.strerror}") from error
    if as_json:
        output.emit(bench_tables.as_values(found))
    else:
        bench_tables.compared(found)
        if into is not None:
            click.echo(f"Page: {into}")
    if opened and into is not None:
        _browse(into.resolve())


def _browse(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.as_uri()):
        output.note(f"No browser can be started here; the page is {page}")
