"""What a cluster has only where it is asked for: built once for a root file system, kept beside it in the cache."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from gateway.cluster import host
from gateway.cluster.files import Progress, cache_dir, locked, remove_tree, silent
from gateway.cluster.machine import Machine
from gateway.cluster.record import Record
from gateway.cluster.rootfs import run, script, script_path
from gateway.errors import ClusterError

PYSLURM_VERSION = "25.11.2"
_COMPAT = "pyslurm-compat-26.05.h"
_SCRIPT = "build-pyslurm.sh"
HOST = "login"


def key(rootfs: str, recipe: str) -> str:
    """Names what is built by everything that decides what is in it. Pure."""
    digest = hashlib.sha256(f"{PYSLURM_VERSION}\n{recipe}".encode()).hexdigest()[:12]
    return f"pyslurm-{rootfs}-{digest}.tar"


def ensure(rootfs: Path, *, mirror: str = "", progress: Progress = silent) -> Path:
    """A tar with pyslurm for this root file system's Python and libslurm, built now if it is not in the cache.

    Several may ask at once, one builds. Raises ClusterError with the end of the log where the build fails.
    """
    cache = cache_dir() / "extras"
    target = cache / key(rootfs.name, script(_SCRIPT) + script(_COMPAT))
    if target.is_file():
        return target
    with locked(cache, progress, timeout_s=1800):
        if target.is_file():
            return target
        for stale in cache.glob(".build-*"):  # ours is the lock, so whoever made these was killed
            remove_tree(stale)
        work = Path(tempfile.mkdtemp(prefix=".build-", dir=cache))
        try:
            _build(rootfs, work, mirror, progress)
            (work / "done.tar").rename(target)
        finally:
            remove_tree(work)
        for old in cache.glob("pyslurm-*.tar"):
            of = old.name.removeprefix("pyslurm-").rpartition("-")[0]
            if old != target and (of == rootfs.name or not (rootfs.parent / of).is_dir()):
                old.unlink()  # older, or its root file system is gone
    return target


def install(made: Record, tar: Path) -> None:
    """Lay it over the files of the cluster's login host, which is running; a host that starts anew has lost it."""
    running = made.hosts[HOST]
    argv = host.command(running, ["tar", "-x", "-C", "/", "--no-overwrite-dir", "-f", "-"])
    with tar.open("rb") as file:
        done = subprocess.run(argv, stdin=file, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"pyslurm could not be put on host {HOST}: {done.stderr.strip()}")


def _build(rootfs: Path, work: Path, mirror: str, progress: Progress) -> None:
    machine = Machine.look(mirror)
    apt_conf, pip_conf = work / "apt.conf", work / "pip.conf"
    apt_conf.write_text(machine.apt_options, encoding="utf-8")
    pip_conf.write_text(machine.pip_conf, encoding="utf-8")
    environment = os.environ | machine.environment | {
        "ROOTFS": str(rootfs),
        "WORK": str(work),
        "TARGET": str(work / "done.tar"),
        "VERSION": PYSLURM_VERSION,
        "COMPAT": str(script_path(_COMPAT)),
        "JOBS": str(os.cpu_count() or 1),
        "APT_CONF": str(apt_conf),
        "PIP_CONF": str(pip_conf),
        "BINDS": "\n".join(dict.fromkeys([*machine.apt_paths, *machine.binds])),
        "CA_BUNDLE": machine.ca_bundle,
        "BUILD_LOG": str(work / "build.log"),
    }  # fmt: skip
    run(
        _SCRIPT,
        environment,
        progress,
        what=f"pyslurm {PYSLURM_VERSION} could not be built for {rootfs.name}",
        hint="does pip reach a package index on this machine, and does the Debian mirror still have this Slurm?",
    )
