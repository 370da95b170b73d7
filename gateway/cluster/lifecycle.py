"""The steps by which a cluster comes up and ends; each leaves what a killed command needs to be repaired."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from gateway.cluster import config, extras, host, keys, layers, network, processes, record, rootfs
from gateway.cluster.files import Progress, clusters_dir, locked, remove_tree, silent
from gateway.cluster.machine import Machine
from gateway.cluster.record import Record
from gateway.cluster.spec import BUILD_PORT, REST_PORT, SSH_PORT, Host, Net, Spec
from gateway.errors import ClusterError, Conflict, Invalid

_READY_S = 180  # a machine may start several clusters at once
_TOOLS = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "pivot_root": "util-linux",
    "ssh-keygen": "openssh-client",
}


def up(name: str, asked: Mapping[str, Any], progress: Progress = silent) -> Record:
    """The record of the cluster with idle nodes; started now unless it is up. See `Cluster.up`.

    `asked` holds what was said of nodes, release, gpus, images, mirror and extras.
    """
    check_machine()
    state = record.state_of(name)
    with locked(state, progress):
        old = record.load(state)
        try:
            wanted = _wanted(name, old, asked)
            if old and old.alive:
                return _more(old, wanted, state, progress)
            root = rootfs.ensure(wanted.spec.release, mirror=wanted.mirror, progress=progress)
            if wanted.spec.extras:
                extras.ensure(root, mirror=wanted.mirror, progress=progress)
            if old:
                progress("ending what is left of it", "")
                end_running(state, old)
            return _start(replace(wanted, rootfs=str(root)), state, progress)
        except BaseException:
            if not (old and old.alive):
                end_running(state, record.load(state))
            if not (old and old.up):  # the home directories of a cluster that was in use are not ours to throw away
                _remove(state)
            raise


def end(name: str, progress: Progress = silent) -> bool:
    """End the cluster of this name and remove all of it; False where there was nothing."""
    check_machine()
    state = record.state_of(name)
    with locked(state, progress, create=False) as there:
        if there:
            progress("ending", name)
            end_running(state, record.load(state))
            _remove(state)
        return there


def end_running(state: Path, found: Record | None) -> None:
    """Kill and unplug everything of it; home directories and keys stay."""
    if found:
        for running in found.hosts.values():  # the quick way first; the search below misses none
            if running.alive:
                processes.kill(running.init)
    processes.kill_all(lambda: sorted({*processes.marked(f"{state}:"), *processes.inside(state)}))
    if found:
        network.remove(found.net)
    for name in ("layers", "logs", "run", "tmp"):
        remove_tree(state / name)


def start_host(made: Record, state: Path, name: str, machine: Machine) -> Record:
    """Start one host, plug it in and let it go; returns the record with it, not saved."""
    each = next(each for each in made.spec.hosts if each.name == name)
    starting = host.start(made, state, each, binds=machine.binds if each.role == "build" else ())
    if each.role != "build":
        network.wire(made.net, each.octet, starting.outer)
    return made.with_host(name, starting.go())


def check_machine() -> None:
    """Raises ClusterError where no cluster can be made, with what is missing."""
    if sys.platform != "linux":
        raise ClusterError("a local cluster is made of Linux namespaces: it needs Linux")
    if os.geteuid() != 0:
        raise ClusterError(
            "a local cluster needs root: it makes namespaces, a network bridge and device files",
            hint="run it with sudo",
        )
    for tool, package in _TOOLS.items():
        if not shutil.which(tool):
            raise ClusterError(f"the command `{tool}` is not on this machine", hint=f"apt-get install {package}")
    if not Path("/dev/fuse").exists():
        raise ClusterError("this machine's kernel has no FUSE, which Apptainer needs", hint="modprobe fuse")


def _start(wanted: Record, state: Path, progress: Progress) -> Record:
    began = time.monotonic()
    spec = wanted.spec
    machine = Machine.look(wanted.mirror)
    made = _reserve(wanted, state)
    progress("starting hosts", "")
    keys.ensure(state / "keys", [each.name for each in spec.hosts])
    _lay_out(made, state, machine)
    for each in spec.hosts:
        progress("starting hosts", each.name)
        made = start_host(made, state, each.name, machine)
    made.save(state)
    _wait_ready(made, state, progress)
    put_extras(made)
    made = replace(made, up=True, created=datetime.now(UTC).isoformat(timespec="seconds"))
    made.save(state)
    progress("up", f"{spec.nodes} idle nodes after {time.monotonic() - began:.1f} s")
    return made


def _reserve(wanted: Record, state: Path) -> Record:
    """Choose a subnet, write the record, then make the bridge: in this order, so that `down` always knows of it."""
    with locked(clusters_dir()):
        while True:
            others = (record.load(record.state_of(name)) for name in record.all_names() if name != state.name)
            net = network.free({other.net.index for other in others if other})
            made = replace(wanted, net=net)
            made.save(state)
            if network.make_bridge(net):
                return made


def _lay_out(made: Record, state: Path, machine: Machine) -> None:
    spec, net, root = made.spec, made.net, Path(made.rootfs)
    key_dir = state / "keys"
    host_keys = {each.name: keys.public(key_dir, f"host_{each.name}") for each in spec.hosts}
    (state / "known_hosts").write_text(config.known_hosts(spec, net, host_keys), encoding="utf-8")
    owners = layers.owners_of(root)
    layers.common(layers.Layer(state / "layers" / "common", root, owners), spec, net, key_dir)
    for each in spec.hosts:
        layers.own(layers.Layer(state / "layers" / each.name, root, owners), spec, net, key_dir, each, machine)
        logs = state / "logs" / each.name
        logs.mkdir(parents=True)
        os.chown(logs, *owners["slurm"])
    layers.homes(state / "home", root)
    (state / "run").mkdir()
    (state / "tmp").mkdir()
    (state / "tmp").chmod(0o1777)


def put_extras(made: Record, progress: Progress = silent) -> None:
    """What a login host that has just started lacks of its extras."""
    if made.spec.extras:
        extras.install(made, extras.ensure(Path(made.rootfs), mirror=made.mirror, progress=progress))


def _more(old: Record, wanted: Record, state: Path, progress: Progress) -> Record:
    """A cluster that is up, with the extras that it did not have. Raises Conflict where more than that is new."""
    made = replace(old, spec=replace(old.spec, extras=wanted.spec.extras))
    _same(made, wanted)
    if made.spec != old.spec:
        put_extras(made, progress)
        made.save(state)
    progress("already up", "")
    return made


def wait_started(made: Record, state: Path, name: str) -> None:
    """Until this host has started its daemons. Raises ClusterError where it does not."""
    watched = [each for each in made.spec.hosts if each.name == name]
    _wait(made, state, watched, {"daemons": partial(_ready, made, name)})


def _wait_ready(made: Record, state: Path, progress: Progress) -> None:
    """Until Slurm's nodes are idle and every port that the gateway uses answers."""
    spec, net = made.spec, made.net
    address = {each.name: net.address(each.octet) for each in spec.hosts}
    ports = [("ctl", REST_PORT), ("build", BUILD_PORT)]
    ports += [(each.name, SSH_PORT) for each in spec.hosts if each.role in ("login", "node")]
    checks: dict[str, Callable[[], bool]] = {
        "accounts": lambda: _ready(made, "ctl"),
        "idle nodes": lambda: _run(made, "ctl", ["sinfo", "-hNpcpu", "-o%T"]) == "idle\n" * spec.nodes,
    }
    checks |= {f"{name}:{port}": partial(_answers, address[name], port) for name, port in ports}
    _wait(made, state, spec.hosts, checks, progress)


def _wait(
    made: Record,
    state: Path,
    watched: Sequence[Host],
    checks: Mapping[str, Callable[[], bool]],
    progress: Progress = silent,
) -> None:
    """Until every check is true. Raises ClusterError when a watched host ends or the time is over."""
    deadline = time.monotonic() + _READY_S
    for what, check in checks.items():
        progress("waiting for Slurm", what)
        while not check():
            dead = next((each for each in watched if not made.hosts[each.name].alive), None)
            if dead:
                raise host.failed(made, state, dead)
            if time.monotonic() > deadline:
                raise host.failed(made, state, watched[0], f"was not ready after {_READY_S} s, waiting for {what}")
            time.sleep(0.05)


def _ready(made: Record, name: str) -> bool:
    return _run(made, name, ["test", "-e", "/run/sluice-host/ready"]) is not None


def _run(made: Record, name: str, argv: list[str]) -> str | None:
    """What a command in a host printed; None where it failed, or the host is not there yet."""
    running = made.hosts[name]
    if not running.entered:
        return None
    done = subprocess.run(
        host.command(running, argv), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return done.stdout if done.returncode == 0 else None


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=2):
            return True
    except OSError:
        return False


def _remove(state: Path) -> None:
    remove_tree(state)
    with suppress(OSError):
        state.parent.rmdir()  # only if no other cluster is there


def _wanted(name: str, old: Record | None, asked: Mapping[str, Any]) -> Record:
    """What is asked for, the rest as it was; with no network yet. Raises Invalid where it cannot be."""
    before = {**asdict(old.spec), "images": old.images, "mirror": old.mirror} if old else {}
    values = {**before, "name": name, **asked}
    images = values.pop("images", "")
    if images:
        _check_images(images)
    mirror = values.pop("mirror", "")
    return Record(Spec(**values), Net(-1, ""), "", images=images, mirror=mirror)


def _same(old: Record, wanted: Record) -> None:
    if (old.spec, old.images) != (wanted.spec, wanted.images):
        raise Conflict(
            f"cluster {old.spec.name} is up already, with other settings: --nodes {old.spec.nodes} "
            f"--release {old.spec.release} --gpus {old.spec.gpus}" + (f" --images {old.images}" * bool(old.images)),
            hint=f"end it first (sluice cluster down --name {old.spec.name}) or choose another --name",
        )


def _check_images(images: str) -> None:
    path = Path(images)
    if not path.is_absolute():
        raise Invalid(f"--images takes an absolute path, not {images!r}")
    if not path.exists():
        path.mkdir(parents=True)
        path.chmod(0o1777)
