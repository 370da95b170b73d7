"""`sluice doctor`: check a configured cluster end to end, and say what to change."""

import asyncio
from typing import TYPE_CHECKING

import click

from gateway.cli import errors, output

if TYPE_CHECKING:
    from gateway.model.doctor import Finding
    from gateway.settings import Settings

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "bright_black"}


@click.command()
@click.option("--cluster", metavar="NAME", help="The cluster to check; else the default one.")
@click.option("--job", is_flag=True, help="Also run a tiny job, to see a node's programs and the way to its ports.")
@output.json_option
@click.pass_context
def doctor(ctx: click.Context, *, cluster: str | None, job: bool, as_json: bool) -> None:
    """Check a cluster of sluice.toml end to end, and say what to change.

    It asks Slurm, the login node and the nodes as a session would, and writes and removes a file in the session
    and image folders. Nothing of the gateway needs to run. Exit code 1 if there is a problem; warnings are none.
    """
    from gateway.settings import load

    settings = load()
    name, _ = settings.cluster(cluster)
    findings = asyncio.run(_examine(settings, name, job=job))
    problems = sum(finding.verdict == "problem" for finding in findings)
    if as_json:
        output.emit({"cluster": name, "problems": problems, "findings": findings})
    else:
        _show(name, findings)
    ctx.exit(errors.FAILED if problems else errors.OK)


async def _examine(settings: "Settings", name: str, *, job: bool) -> "list[Finding]":
    import secrets
    from datetime import UTC, datetime

    from gateway.core.doctor import Ways, examine
    from gateway.errors import SettingsInvalid
    from gateway.model.doctor import problem
    from gateway.network.tcp import TcpNet
    from gateway.network.way import Way
    from gateway.slurm.connect import connect
    from gateway.web.log import configure

    configure("text", "warning")  # standard output is for what was found
    cluster = settings.clusters[name]
    try:
        backend = connect(cluster, name=name)
    except SettingsInvalid as error:  # all the other checks need what is missing
        return [problem("settings", error.message, error.hint)]
    has_shell = bool(cluster.ssh_host) or cluster.backend != "rest"
    try:
        return await examine(
            Ways(
                settings=cluster,
                poll_seconds=settings.reconcile.poll_seconds,
                scheduler=backend.scheduler,
                files=backend.files,
                shell=backend.shell if has_shell else None,
                build_shell=backend.build_shell if has_shell or cluster.build_host else None,
                inspections=backend.inspections,
                net=TcpNet(Way(cluster.path, backend.tunnel) if backend.tunnel is not None else None),
                clock=lambda: datetime.now(UTC),
            ),
            mark=secrets.token_hex(4),
            job=job,
        )
    finally:
        await backend.close()


def _show(name: str, findings: "list[Finding]") -> None:
    rows = []
    for finding in findings:
        word = output.styled(finding.verdict.value, fg=_COLOURS[finding.verdict.value])
        rows.append((finding.check, word, finding.seen, finding.advice))
    output.table(("check", "verdict", "seen", "what to change"), rows)
    counts = {word: sum(finding.verdict.value == word for finding in findings) for word in _COLOURS}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    output.note(f"Cluster {name}: {told}.")
