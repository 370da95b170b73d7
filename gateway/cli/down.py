"""`sluice down`: end what `sluice up` brought up."""

import shutil
from typing import TYPE_CHECKING

import click

from gateway.cli import output
from gateway.cli.steps import Steps

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.cli.daemon import Daemon
    from gateway.cli.local import Place

_SESSION_SECONDS = 30.0


@click.command()
@click.option("--purge", is_flag=True, help="Remove images, the cached file system, keys, token and logs, too.")
@output.json_option
def down(*, purge: bool, as_json: bool) -> None:
    """End the sessions, the gateway and the local cluster that `sluice up` brought up. It may be repeated.

    On a Slurm that was there before, only the demo session is stopped. Images and the cached file system of the
    local cluster stay, so that the next `up` is quick.
    """
    from gateway.cli.local import Place

    place, steps = Place.default(), Steps(quiet=as_json)
    with place.locked():
        ended = end(place, steps)
        if purge:
            _purge(place, steps)
    if as_json:
        output.emit({"ended": ended})
    elif not ended:
        output.note("Nothing was up.")


def end(place: "Place", steps: Steps) -> list[str]:
    """End it all; what was ended, in words."""
    from gateway.cli import daemon
    from gateway.cli.local import own_settings

    ended: list[str] = []
    brought = place.brought()
    own = own_settings(place)
    state_dir = own.state_dir if own else place.folder
    running = daemon.find(state_dir)
    if running is not None:
        _stop_sessions(running, state_dir / "token", steps, everything=brought.made)
        with steps.step("Ending the gateway"):
            daemon.stop(running)
        daemon.forget(state_dir)
        ended.append("gateway")
    if brought.cluster is not None and brought.made:
        _end_cluster(brought.cluster, steps)
        place.forget_sessions()  # they ran on a Slurm that is no more
        ended.append("cluster")
    elif brought.cluster is not None:
        output.note(f"The cluster {brought.cluster} was there before `sluice up`: it stays (sluice cluster down).")
    place.forget()
    return ended


def _stop_sessions(running: "Daemon", token: "Path", steps: Steps, *, everything: bool) -> None:
    """All of them where their cluster is about to end, else the demo's."""
    from gateway.cli.client import trusted
    from gateway.cli.local import DEMO_SESSION
    from gateway.errors import SluiceError
    from gateway.sdk import Sluice

    try:
        with Sluice(running.url, token.read_text().strip(), attempts=2, ca=trusted(), origin="cli") as sluice:
            live = list(sluice.sessions.list(ended=False))
            chosen = [session for session in live if everything or session.name == DEMO_SESSION]
            if chosen:
                with steps.step(f"Stopping {', '.join(session.name for session in chosen)}"):
                    for session in chosen:
                        session.stop()
                    for session in chosen:
                        session.wait("ended", _SESSION_SECONDS)
            if len(chosen) < len(live):
                output.note(
                    f"{len(live) - len(chosen)} other sessions go on in Slurm; the next `sluice up` finds them."
                )
    except (SluiceError, OSError) as error:
        output.note(f"  Sessions were not stopped in order: {error}")


def _end_cluster(name: str, steps: Steps) -> None:
    from gateway.cluster import end as end_cluster

    with steps.step(f"Ending the cluster {name}") as tell:
        end_cluster(name, lambda stage, detail: tell(f"{stage} {detail}"))


def _purge(place: "Place", steps: Steps) -> None:
    from gateway.cluster import all_names
    from gateway.cluster.files import cache_dir

    with steps.step("Removing images, keys and logs"):
        for name in ("images", "pki"):
            shutil.rmtree(place.folder / name, ignore_errors=True)
        for name in ("token", "seal.key", "secrets.keys", "secrets.keys.lock", "gateway.log", "gateway.log.1"):
            (place.folder / name).unlink(missing_ok=True)
        place.forget_sessions()
        if not all_names():  # other clusters stand on the cached file system
            shutil.rmtree(cache_dir() / "rootfs", ignore_errors=True)
