"""`sluice up`: from nothing to an answered question: cluster, image, gateway, session."""

import asyncio
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import output
from gateway.cli.steps import Steps

if TYPE_CHECKING:
    from gateway.cli.daemon import Daemon
    from gateway.cli.local import Place
    from gateway.sdk import Session, Sluice
    from gateway.settings import Settings

_PORT = 8000
_SESSION_SECONDS = 600.0
_QUESTION = "Hello! What can you do?"
_TOKENS = 32


@click.command()
@click.option("--name", default="local", show_default=True, metavar="NAME", help="Name of the local cluster.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the gateway.  [default: 8000]")
@click.option("--cluster-nodes", "nodes", type=click.IntRange(1, 16), help="Compute nodes of it.  [default: 2]")
@click.option("--fresh", is_flag=True, help="End what is up, and forget its sessions, first.")
@click.option("--no-demo", is_flag=True, help="Only cluster and gateway: no image, no session, no question.")
@output.json_option
def up(*, name: str, port: int | None, nodes: int | None, fresh: bool, no_demo: bool, as_json: bool) -> None:
    """Bring up a Slurm cluster, the gateway and a demo model, and ask the model a question.

    A machine with `sbatch` uses its own Slurm, and a sluice.toml of yours is used as it is; else a local cluster is
    made, which needs root and debootstrap. A second `up` finds what runs. `sluice down` ends it all.
    """
    from gateway.cli.down import end
    from gateway.cli.local import Place, digest

    place, steps = Place.default(), Steps(quiet=as_json)
    with place.locked():
        if fresh:
            end(place, steps)
            place.forget_sessions()
        settings = _settings(place, _Asked(name, port, nodes), steps)
        cluster, _ = settings.cluster()
        if not no_demo:
            _image(settings, cluster, steps)
        daemon = _gateway(settings, digest(settings), steps)
        told: dict[str, Any] = {"url": daemon.url, "docs": f"{daemon.url}/api/v1/docs", "openai": f"{daemon.url}/v1"}
        if not no_demo:
            told |= _demo(daemon, settings, steps)
    if as_json:
        output.emit(told)
    else:
        _say(told)


@dataclass(frozen=True)
class _Asked:
    name: str
    port: int | None
    nodes: int | None


def _settings(place: "Place", asked: _Asked, steps: Steps) -> "Settings":
    """The settings to run with: a person's own, those of this machine's Slurm, or those of the local cluster."""
    from gateway.cli.local import own_settings
    from gateway.settings import load

    if (own := own_settings(place)) is not None:
        if asked.port not in (None, own.serve.all_port):
            raise click.UsageError(f"The port is set in {own.source}: {own.serve.all_port}.")
        return own
    before = load(place.toml).serve.all_port if place.toml.is_file() else _PORT
    port = asked.port or before
    if shutil.which("sbatch"):
        place.write_settings("", None, port)
    else:
        place.write_settings(_cluster(place, asked, steps), asked.name, port)
    return load(place.toml)


def _cluster(place: "Place", asked: _Asked, steps: Steps) -> str:
    """Bring the local cluster up; its part of the settings."""
    from gateway.cli.local import Brought
    from gateway.cluster import Cluster
    from gateway.cluster.lifecycle import check_machine
    from gateway.errors import ClusterNotFound, Conflict

    check_machine()
    before = place.brought()
    if before.cluster not in (None, asked.name):
        raise Conflict(f"the cluster {before.cluster!r} is up", hint="End it first: sluice down")
    try:
        there = Cluster.load(asked.name).alive
    except ClusterNotFound:
        there = False
    made = before.made or not there
    place.remember(Brought(asked.name, made, before.created))
    place.images.mkdir(exist_ok=True)
    place.images.chmod(0o1777)  # as /home/images of a cluster: everybody adds, nobody removes another's
    try:
        with steps.step(f"Slurm cluster {asked.name}") as tell:
            cluster = Cluster.up(
                asked.name,
                asked.nodes,
                images=str(place.images) if made else None,
                progress=lambda stage, detail: tell(f"{stage} {detail}"),
            )
    except Exception:
        place.remember(before)  # nothing of it is left
        raise
    created = cluster.record.created
    if before.created and before.created != created:
        _forget_lost_sessions(place, steps)
    place.remember(Brought(asked.name, made, created))
    return cluster.settings_toml()


def _forget_lost_sessions(place: "Place", steps: Steps) -> None:
    """The cluster is a new one, and so are its job ids: what the database says is about jobs that are gone."""
    from gateway.cli import daemon

    if (running := daemon.find(place.folder)) is not None:
        with steps.step("Ending the gateway of the cluster before"):
            daemon.stop(running)
    place.forget_sessions()


def _image(settings: "Settings", cluster: str, steps: Steps) -> None:
    from gateway.cli.image import ensure_image
    from gateway.cli.local import DEMO_IMAGE

    with steps.step(f"Image {DEMO_IMAGE}") as tell:
        asyncio.run(ensure_image(settings, cluster, DEMO_IMAGE, tell))


def _gateway(settings: "Settings", digest: str, steps: Steps) -> "Daemon":
    """The gateway that runs with these settings; started now unless it does."""
    from gateway.cli import daemon
    from gateway.cli.client import address, trusted
    from gateway.errors import Conflict
    from gateway.sdk import Sluice

    state_dir, url = settings.state_dir, address(settings)
    running = daemon.find(state_dir)
    with steps.step(f"Gateway at {url}") as tell:
        if running is not None and (running.url, running.settings) == (url, digest):
            return running
        if running is not None:
            tell("ending the one with other settings")
            daemon.stop(running)
        with Sluice(url, "none", attempts=1, timeout=2.0, ca=trusted(settings)) as sluice:
            if sluice.alive():
                raise Conflict(
                    f"another gateway answers at {url}, that `sluice up` did not start",
                    hint="End it, or choose another port: sluice up --port 8100",
                )
        environ = {name: value for name, value in os.environ.items() if name not in ("SLUICE_URL", "SLUICE_TOKEN")}
        if settings.source is not None:
            environ["SLUICE_CONFIG"] = str(settings.source.absolute())
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return daemon.start(state_dir, url, digest, environ, trusted(settings))


def _demo(daemon: "Daemon", settings: "Settings", steps: Steps) -> dict[str, Any]:
    """A ready demo session, and its answer to a question through /v1."""
    from gateway.cli.client import trusted
    from gateway.cli.local import DEMO_SESSION
    from gateway.sdk import Sluice

    with Sluice(
        daemon.url, (settings.state_dir / "token").read_text().strip(), ca=trusted(settings), origin="cli"
    ) as sluice:
        with steps.step(f"Session {DEMO_SESSION}") as tell:
            session = _session(sluice).wait("ready", _SESSION_SECONDS, on_change=lambda now: tell(_described(now)))
        with steps.step("A question through /v1"):
            answer = "".join(sluice.chat(_QUESTION, model=session.id, max_tokens=_TOKENS))
        return {"session": session.name, "model": session.model, "question": _QUESTION, "answer": answer}


def _session(sluice: "Sluice") -> "Session":
    from gateway.cli.local import DEMO_RECIPE, DEMO_SESSION
    from gateway.errors import SessionNotFound

    try:
        session = sluice.sessions.get(DEMO_SESSION)
    except SessionNotFound:
        return sluice.sessions.create(DEMO_RECIPE, name=DEMO_SESSION)
    if session.phase == "stopping":
        session.wait("ended", _SESSION_SECONDS)
    return sluice.sessions.create(DEMO_RECIPE, name=DEMO_SESSION) if session.ended else session


def _described(session: "Session") -> str:
    from gateway.cli.progress import describe

    return describe(session.view)


def _say(told: dict[str, Any]) -> None:
    def bold(text: str) -> str:
        return output.styled(text, bold=True)

    if "answer" in told:
        click.echo(f"\n{bold('You:')}   {told['question']}")
        click.echo(f"{bold('Model:')} {' '.join(told['answer'].split()) or '(nothing)'}")
        output.note("       (The demo's model is tiny: do not look for sense. But a Slurm job said it.)")
    click.echo(f"\n{bold('Sluice is up.')}")
    output.fields([("  API", told["url"] + "/api/v1"), ("  its pages", told["docs"]), ("  OpenAI API", told["openai"])])
    click.echo("\nNext:")
    commands = [
        ("sluice status", "what runs, and what is free"),
        ('eval "$(sluice env)"', "addresses and token for your own programs"),
        ("sluice down", "end it all"),
    ]
    if "session" in told:
        commands.insert(0, (f"sluice chat {told['session']}", "talk to the model"))
        commands.pop(2)
    for command, what in commands:
        click.echo(f"  {command:<24} {what}")
