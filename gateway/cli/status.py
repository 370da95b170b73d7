"""`sluice status`: the gateway, its clusters, what is free, and your sessions, on one screen."""

from typing import TYPE_CHECKING

import click

from gateway.cli import output

if TYPE_CHECKING:
    from gateway.model.api import ClusterView, HealthView, SessionView


@click.command()
@output.json_option
def status(*, as_json: bool) -> None:
    """Show how the gateway is, what the clusters have free, and your live sessions. Exit code 5 if it is away."""
    from gateway.cli.client import connect

    with connect() as sluice:
        health = sluice.health()
        clusters = sluice.clusters.list()
        sessions = [session.view for session in sluice.sessions.list(ended=False)]
        url = sluice.url
    if as_json:
        output.emit({"url": url, "gateway": health, "clusters": clusters, "sessions": sessions})
        return
    _show_gateway(url, health)
    for cluster in clusters:
        click.echo()
        _show_cluster(cluster)
    click.echo()
    _show_sessions(sessions)


def _show_gateway(url: str, health: "HealthView") -> None:
    word = output.styled(health.status, fg="green" if health.status == "ok" else "yellow")
    output.fields([("gateway", f"{url}  {word}  version {health.version}"), *health.checks.items()])


def _show_cluster(cluster: "ClusterView") -> None:
    word = output.styled("reachable", fg="green") if cluster.reachable else output.styled("not reachable", fg="red")
    asked = f", asked {output.age(cluster.polled_at)} ago" if cluster.polled_at else ""
    up = sum(node.available for node in cluster.nodes)
    busy = sum(node.cpus_used for node in cluster.nodes)
    output.fields(
        [
            ("cluster", f"{output.styled(cluster.name, bold=True)}  {word}  Slurm {cluster.version or '?'}{asked}"),
            ("message", cluster.message),
            ("nodes", f"{up} of {len(cluster.nodes)} up" if cluster.nodes else None),
            ("CPUs", f"{sum(node.cpus for node in cluster.nodes) - busy} free" if cluster.nodes else None),
        ]
    )
    if cluster.gpus:
        rows = [
            (f"{gpus.name}:{gpus.type}" if gpus.type else gpus.name, gpus.free, gpus.total) for gpus in cluster.gpus
        ]
        output.table(("gpus", "free", "of"), rows)
    if cluster.partitions:
        partitions = [
            (
                partition.name + (" (default)" if partition.default else ""),
                "up" if partition.up else "down",
                partition.total_nodes,
                partition.total_cpus,
                output.span(partition.max_time * 60) if partition.max_time else "unlimited",
            )
            for partition in cluster.partitions
        ]
        output.table(("partition", "state", "nodes", "cpus", "longest"), partitions)


def _show_sessions(sessions: "list[SessionView]") -> None:
    from gateway.cli.progress import describe

    rows = [
        (view.name, output.phase(view.phase), view.recipe, view.cluster, output.age(view.created_at), describe(view))
        for view in sessions
    ]
    output.table(
        ("session", "phase", "recipe", "cluster", "age", "now"),
        rows,
        empty="You have no live sessions. Start one: sluice launch llama-cpp",
    )
