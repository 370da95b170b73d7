"""`sluice show`: all about one session."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import complete, output

if TYPE_CHECKING:
    from gateway.model.api import JobView, ReplicaView, SessionView


@click.command()
@click.argument("session", shell_complete=complete.any_sessions)
@click.option("--script", is_flag=True, help="Print the script that was sent to Slurm instead.")
@output.json_option
def show(*, session: str, script: bool, as_json: bool) -> None:
    """Show all about SESSION (a name or an id): its job, its conditions, where it is reached."""
    from gateway.cli.client import connect

    with connect() as sluice:
        if script:
            sent = sluice.sessions.script(session)
            if as_json:
                output.emit(sent)
            else:
                click.echo(sent.script, nl=not sent.script.endswith("\n"))
            return
        found = sluice.sessions.get(session)
        jobs: Sequence[ReplicaView] = () if as_json else sluice.sessions.jobs(found.id)
    if as_json:
        output.emit(found.view)
    else:
        _print(found.view, found.url)
        _print_jobs(jobs)


def _print(view: "SessionView", url: str) -> None:
    from gateway.cli.progress import describe

    now = describe(view).removeprefix(view.phase).lstrip(". ")
    output.fields(
        [
            ("session", f"{output.styled(view.name, bold=True)}  {view.id}"),
            ("phase", f"{output.phase(view.phase)}{'  ' + now if now else ''}"),
            ("reason", view.reason),
            ("recipe", f"{view.recipe} {view.recipe_version} ({view.kind})"),
            ("model", view.model),
            ("address", url if view.phase == "ready" else None),
            ("cluster", f"{view.cluster}, as {view.unix_user}"),
            ("owner", f"{view.owner}, project {view.project}"),
            ("image", f"{view.image}  sha256:{view.image_sha256[:16]}" if view.image_sha256 else view.image),
            ("parameters", _pairs(view.parameters)),
            ("resources", _resources(view.resources)),
            ("labels", _pairs(view.labels)),
            ("created", _moment(view.created_at)),
            ("ready", _moment(view.ready_at)),
            ("kept", f"until {output.local(view.keep_until)}" if view.keep_until and not view.ended else None),
            ("ended", _moment(view.ended_at)),
            ("replicas", f"{view.replicas.min}..{view.replicas.max}" if view.replicas else None),
            ("stopping", "asked for" if view.stop_requested and not view.ended else None),
            *_job(view.job),
        ]
    )
    if view.conditions:
        click.echo()
        rows = [
            (name, "yes" if state.status else "no", output.age(state.since), state.message)
            for name, state in view.conditions.items()
        ]
        output.table(("condition", "holds", "since", "message"), rows)


def _print_jobs(jobs: "Sequence[ReplicaView]") -> None:
    """Those that serve it, or are about to, beside the one that is shown."""
    live = [job for job in jobs if job.phase not in {"succeeded", "failed", "stopped"}]
    if len(live) > 1:
        click.echo()
        rows = [
            (job.attempt, job.job_id or "", job.role, f"{job.phase}{', draining' if job.draining else ''}", job.nodes)
            for job in live
        ]
        output.table(("attempt", "job", "role", "phase", "nodes"), rows)


def _job(job: "JobView") -> list[tuple[str, object]]:
    ended = ""
    if job.exit_code is not None and job.ended_at is not None:
        ended = f", exit code {job.exit_code}" + (f", signal {job.signal}" if job.signal else "")
    return [
        ("job", f"{job.job_id or 'not submitted yet'} ({job.name})"),
        ("job state", f"{job.state}{f' ({job.reason})' if job.reason else ''}{ended}" if job.state else None),
        ("nodes", job.nodes),
        ("attempt", f"{job.attempt}{f', requeued {job.restarts} times' if job.restarts else ''}"),
        ("submitted", _moment(job.submitted_at)),
        ("started", _moment(job.started_at)),
    ]


def _pairs(values: Mapping[str, Any]) -> str:
    """One `name=value` a line; what is not set is left out."""
    return "\n".join(f"{name}={value}" for name, value in values.items() if value is not None and value is not False)


def _resources(values: Mapping[str, Any]) -> str:
    """The same with GPUs as Slurm writes them: `gpus=a100:2`."""
    gpus = dict(values.get("gpus") or {})
    asked = {name: value for name, value in values.items() if name != "gpus"}
    if gpus.get("count"):
        share = f" ({gpus['share']})" if gpus.get("share", "none") != "none" else ""
        asked["gpus"] = f"{gpus['type']}:{gpus['count']}{share}" if gpus.get("type") else f"{gpus['count']}{share}"
    return _pairs(asked)


def _moment(moment: datetime | None) -> str:
    return f"{output.local(moment)} ({output.age(moment)} ago)" if moment else ""
