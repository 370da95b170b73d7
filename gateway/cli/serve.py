"""`sluice serve`: the services of the gateway, all in one process or each on its own port."""

import click

SERVICES = ("all", "server", "client", "monitoring", "logs")


@click.command()
@click.argument("service", type=click.Choice(SERVICES), default="all")
@click.option("--host", help="Address to listen on; unset: serve.host of the settings.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; unset: the service's own.")
@click.option(
    "--grace",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    metavar="SECONDS",
    help="How long streams that are under way may go on after SIGTERM.",
)
def serve(service: str, host: str | None, port: int | None, grace: int) -> None:
    """Run SERVICE: all (8000), server (8001), client (8002), monitoring (8003) or logs (8004).

    SIGTERM ends it well: no new requests, streams told, acts under way finished and recorded. A second one does not
    wait.
    """
    import sys

    import uvloop

    from gateway.cli.services import run
    from gateway.settings import load

    # The database is read in threads; the default of 5 ms makes each of their steps wait so long while many ask.
    sys.setswitchinterval(0.001)
    uvloop.run(run(load(), service, host=host, port=port, grace=grace))
