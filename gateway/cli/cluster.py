"""`sluice cluster`: a real Slurm cluster on this machine, to try Sluice with and to test recipes on."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.output import emit, fields, interactive, json_option, note, styled, table

if TYPE_CHECKING:
    from gateway.cluster import Cluster

DEFAULT_NAME = "local"
_BROKEN = 7  # gateway/cli/errors.py: not in a state for that
_DETAIL_EVERY_S = 10

_name = click.option("--name", default=DEFAULT_NAME, show_default=True, help="Which cluster.")


class Progress:
    """Shows how far `up` is: one line that rewrites itself on a terminal, now and then a plain line elsewhere."""

    def __init__(self) -> None:
        self._began = self._shown = time.monotonic()
        self._stage = ""
        self._rewrite = interactive(err=True)

    def __call__(self, stage: str, detail: str) -> None:
        now = time.monotonic()
        line = f"[{now - self._began:5.1f} s] {stage}" + (f": {detail}" if detail else "")
        if self._rewrite:
            end = "\n" if self._stage and stage != self._stage else ""
            sys.stderr.write(f"{end}\r\033[K{line[: self._width()]}")
            sys.stderr.flush()
        elif stage != self._stage or now - self._shown > _DETAIL_EVERY_S:
            note(line)
            self._shown = now
        self._stage = stage

    def done(self) -> None:
        if self._rewrite and self._stage:
            sys.stderr.write("\n")

    @staticmethod
    def _width() -> int:
        import shutil

        return shutil.get_terminal_size().columns - 1


@click.group()
def cluster() -> None:
    """A real Slurm cluster with Apptainer on this machine: hosts made of namespaces, fake GPUs, real jobs.

    Needs Linux, root and debootstrap. The first `up` builds a Debian file system (about a minute) and keeps it.
    """


@cluster.command()
@_name
@click.option("--nodes", type=int, help="Compute nodes.  [default: 2]")
@click.option("--release", help="Debian release: sid (Slurm 26.05, Apptainer), trixie (24.11).  [default: sid]")
@click.option("--gpus", help="Fake GPUs of a node: TYPE:COUNT,...  [default: a100:4,a100_1g.10gb:2,shard:16]")
@click.option("--mirror", help="Debian mirror to build from.  [default: the machine's own]")
@click.option("--with", "extras", type=click.Choice(["pyslurm"]), help="Also put this on the login host (sid only).")
@click.option("--images", help="Directory of this machine to be /home/images; it stays when the cluster ends.")
@json_option
def up(
    *,
    name: str,
    nodes: int | None,
    release: str | None,
    gpus: str | None,
    mirror: str | None,
    images: str | None,
    extras: str | None,
    as_json: bool,
) -> None:
    """Bring up a cluster and wait until its nodes are idle; nothing happens if it is up."""
    from gateway.cluster import Cluster

    progress = Progress()
    try:
        made = Cluster.up(
            name, nodes, release, gpus, mirror=mirror, images=images, extras=extras, progress=progress
        )  # fmt: skip
    finally:
        progress.done()
    if as_json:
        emit(_described(made))
        return
    _show(made)
    option = "" if name == DEFAULT_NAME else f" --name {name}"
    note(f"Settings for the gateway: sluice cluster env{option}. A shell as a user: sluice cluster ssh{option} alice")


@cluster.command()
@_name
@click.option("--all", "everything", is_flag=True, help="Every cluster of this machine.")
@json_option
def down(*, name: str, everything: bool, as_json: bool) -> None:
    """End a cluster and remove all of it; also what a killed `up` left behind."""
    from gateway.cluster import all_names, end

    progress = Progress()
    try:
        ended = [each for each in (all_names() if everything else [name]) if end(each, progress)]
    finally:
        progress.done()
    if as_json:
        emit({"ended": ended})
    elif not ended:
        note("there is no cluster" if everything else f"there is no cluster {name}")


@cluster.command()
@_name
@json_option
@click.pass_context
def status(ctx: click.Context, *, name: str, as_json: bool) -> None:
    """Show a cluster: its hosts, addresses and what Slurm says of the nodes. Exit code 7 if it is not up."""
    from gateway.cluster import Cluster

    found = Cluster.load(name)
    if as_json:
        emit(_described(found))
    else:
        _show(found)
    if not found.alive:
        ctx.exit(_BROKEN)


@cluster.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the clusters of this machine."""
    found = [_summary(name) for name in _names()]
    if as_json:
        emit(found)
    else:
        columns = ("name", "phase", "release", "nodes", "network", "created")
        table(columns, [[each[column] for column in columns] for each in found], empty="there is no cluster")


@cluster.command("exec")
@_name
@click.option("--user", help="As this user (alice, bob, oper) instead of root.")
@click.argument("host")
@click.argument("command", nargs=-1)
def exec_(*, name: str, user: str | None, host: str, command: Sequence[str]) -> None:
    """Run a command in a host (ctl, login, node1.., build): sluice cluster exec login --user alice -- squeue.

    Without a command it is a shell. The exit code is the command's.
    """
    from gateway.cluster import Cluster

    argv = Cluster.load(name).exec_argv(host, list(command) or ["bash", "-l"], user)
    sys.stdout.flush()
    os.execvp(argv[0], argv)  # noqa: S606 - the command takes this process's place: its terminal, its exit code


@cluster.command()
@_name
@click.option("--host", default="login", show_default=True, help="login, node1.. or build.")
@click.argument("user")
@click.argument("command", nargs=-1)
@click.pass_context
def ssh(ctx: click.Context, *, name: str, host: str, user: str, command: Sequence[str]) -> None:
    """Log in as a user (alice, bob, oper) by real ssh with a short-lived certificate."""
    from gateway.cluster import Cluster

    with Cluster.load(name).ssh_argv(user, command, host) as argv:
        ctx.exit(subprocess.run(argv, check=False).returncode)


@cluster.command()
@_name
def env(*, name: str) -> None:
    """Print what a sluice.toml needs to use the cluster."""
    from gateway.cluster import Cluster

    click.echo(Cluster.load(name).settings_toml(), nl=False)


@cluster.command()
@_name
@click.argument("host")
@click.option("--service", help="Only this daemon's: slurmctld, slurmd, sshd, ...")
@click.option("-n", "--lines", default=20, show_default=True, help="Lines of each file.")
@click.option("-f", "--follow", is_flag=True, help="Go on as they grow.")
def logs(*, name: str, host: str, service: str | None, lines: int, follow: bool) -> None:
    """Show the logs of a host's daemons."""
    from gateway.cluster import Cluster

    files = Cluster.load(name).logs(host, service or "")
    argv = ["tail", "-v", "-n", str(lines), *(["-F"] if follow else []), "--", *map(str, files)]
    os.execvp(argv[0], argv)  # noqa: S606 - it is what was asked for, also on Ctrl-C


def _names() -> list[str]:
    from gateway.cluster import all_names

    return all_names()


def _summary(name: str) -> dict[str, Any]:
    """One line of the list; a cluster without a record is one whose `up` was killed at once."""
    from gateway.cluster import Cluster
    from gateway.errors import ClusterNotFound

    try:
        found = Cluster.load(name)
    except ClusterNotFound:
        return {"name": name, "phase": "broken", "release": "", "nodes": 0, "network": "", "created": ""}
    return {
        "name": name,
        "phase": found.phase,
        "release": found.record.spec.release,
        "nodes": found.record.spec.nodes,
        "network": f"{found.record.net.address(0)}/24",
        "created": found.record.created,
    }


def _described(found: "Cluster") -> dict[str, Any]:
    from gateway.errors import ClusterError

    try:
        nodes = found.nodes()
        error = ""
    except ClusterError as refused:
        nodes, error = [], refused.message
    hosts = [
        {
            "name": each.name,
            "role": each.role,
            "address": found.addresses[each.name],
            "running": found.running(each.name),
        }
        for each in found.record.spec.hosts
    ]
    return {
        **_summary(found.name),
        "gpus": found.record.spec.gpus,
        "rest_url": found.rest_url,
        "state_dir": str(found.state),
        "hosts": hosts,
        "slurm_nodes": nodes,
        "slurm_error": error,
    }


def _show(found: "Cluster") -> None:
    seen = _described(found)
    states = {node["name"]: node for node in seen["slurm_nodes"]}
    colour = {"up": "green", "busy": "yellow"}.get(seen["phase"], "red")
    fields(
        [
            ("cluster", f"{seen['name']} ({styled(seen['phase'], fg=colour)})"),
            ("release", seen["release"]),
            ("network", seen["network"]),
            ("slurmrestd", seen["rest_url"]),
            ("files", seen["state_dir"]),
            ("Slurm", seen["slurm_error"]),
        ]
    )
    rows = []
    for each in seen["hosts"]:
        node = states.get(each["name"], {"state": "", "gres": ""})
        rows.append(
            [each["name"], each["address"], "running" if each["running"] else "stopped", node["state"], node["gres"]]
        )
    table(("host", "address", "host is", "node is", "gres"), rows)
