"""The Debian file system under every host: built once by debootstrap and apt, then kept in the cache."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gateway.cluster.files import Progress, cache_dir, locked, remove_tree, silent
from gateway.cluster.machine import Machine
from gateway.cluster.processes import path_in_use
from gateway.cluster.spec import PEOPLE
from gateway.errors import ClusterError

# What ends in "?" is left out where the release lacks it.
PACKAGES = (
    *("munge", "mariadb-server", "slurmctld", "slurmd", "slurmdbd", "slurmrestd", "slurm-client"),
    *("slurm-wlm-jwt-plugin?", "slurm-wlm-mysql-plugin?"),
    *("apptainer?", "squashfs-tools", "squashfuse", "fuse2fs", "fuse-overlayfs", "e2fsprogs", "uidmap", "fakeroot"),
    *("debootstrap", "debian-archive-keyring", "busybox-static", "tini"),
    *("openssh-server", "openssh-sftp-server", "openssh-client", "openssl", "ca-certificates"),
    *("python3", "python3-venv", "iproute2", "iputils-ping", "procps", "curl", "jq", "less"),
)
_APT_STATUS = re.compile(r"(?P<kind>dl|pm)status:(?P<what>[^:]*):(?P<percent>[0-9.]+):")
_DEBOOTSTRAP = re.compile(r"I: (?P<text>.+)")
_LAST_LINES = 15


def script_path(name: str) -> Path:
    """One of the shell scripts shipped beside this module."""
    return Path(__file__).parent / "scripts" / name


def script(name: str) -> str:
    return script_path(name).read_text(encoding="utf-8")


def key(release: str, recipe: str) -> str:
    """Names a root file system by everything that decides what is in it. Pure."""
    text = "\n".join([release, *PACKAGES, *(f"{p.name}:{p.uid}" for p in PEOPLE), recipe])
    return f"{release}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def ensure(release: str, *, mirror: str = "", progress: Progress = silent) -> Path:
    """The path of the root file system of this release, built now if it is not in the cache.

    Several may ask at once, one builds. Raises ClusterError with the end of the log where the build fails.
    """
    name = key(release, script("build-rootfs.sh"))
    cache = cache_dir() / "rootfs"
    target = cache / name
    if target.is_dir():
        return target
    with locked(cache, progress, timeout_s=1800):
        if target.is_dir():
            return target
        for stale in cache.glob(".build-*"):  # ours is the lock, so whoever made these was killed
            remove_tree(stale)
        if not shutil.which("debootstrap"):
            raise ClusterError("debootstrap is not installed on this machine", hint="apt-get install debootstrap")
        work = Path(tempfile.mkdtemp(prefix=".build-", dir=cache))
        try:
            _build(release, work, mirror, progress)
            (work / "root").chmod(0o755)
            (work / "root").rename(target)
        finally:
            remove_tree(work)
        for old in cache.glob(f"{release}-*"):
            if old != target and not path_in_use(str(old)):
                remove_tree(old)
    return target


def _build(release: str, work: Path, mirror: str, progress: Progress) -> None:
    machine = Machine.look(mirror)
    root = work / "root"
    root.mkdir()
    log = work / "build.log"
    apt_conf = work / "apt.conf"
    apt_conf.write_text(machine.apt_options, encoding="utf-8")
    environment = os.environ | machine.environment | {
        "TARGET": str(root),
        "RELEASE": release,
        "MIRROR": machine.mirror,
        "PACKAGES": " ".join(PACKAGES),
        "USERS": " ".join(f"{person.name}:{person.uid}" for person in PEOPLE),
        "APT_CONF": str(apt_conf),
        "APT_PATHS": "\n".join(machine.apt_paths),
        "CA_BUNDLE": machine.ca_bundle,
        "BUILD_LOG": str(log),
    }  # fmt: skip
    source = machine.mirror or "debootstrap's default mirror"
    run(
        "build-rootfs.sh",
        environment,
        progress,
        what=f"the {release} root file system could not be built from {source}",
        hint="is the mirror reachable and does it have this release? Another one: --mirror URL",
    )


def run(name: str, environment: Mapping[str, str], progress: Progress, *, what: str, hint: str) -> None:
    """Run a build script, which says its stages; BUILD_LOG in its environment is what else it says.

    Raises ClusterError, made of `what`, the stage and the end of the log, where it fails.
    """
    # When this process dies, unshare is killed; when unshare dies, the script is; and with it all that it mounted.
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    report = _Report(progress)
    with subprocess.Popen(
        [*command, "bash", str(script_path(name))],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", env=environment, cwd="/",
    ) as process:  # fmt: skip
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            for line in process.stdout:
                report.read(line.rstrip())
        except BaseException:  # Ctrl-C is for us alone: the first process of a namespace does not hear it
            process.kill()
            raise
    if process.returncode != 0:
        log = Path(environment["BUILD_LOG"])
        end = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        end = end or report.tail
        raise ClusterError(f"{what} (stage: {report.stage}):\n" + "\n".join(end[-_LAST_LINES:]), hint=hint)


class _Report:
    """Reads what the build script, debootstrap and apt say, and makes progress of it."""

    def __init__(self, progress: Progress) -> None:
        self.stage = "start"
        self.tail: list[str] = []
        self._progress = progress

    def read(self, line: str) -> None:
        if line.startswith("@stage "):
            self.stage = line.removeprefix("@stage ")
            self._progress(self.stage, "")
        elif match := _APT_STATUS.match(line):
            doing = "downloading" if match["kind"] == "dl" else "installing"
            self._progress(self.stage, f"{doing} {float(match['percent']):.0f} %")
        else:
            self.tail = [*self.tail[-_LAST_LINES:], line]
            if match := _DEBOOTSTRAP.match(line):
                self._progress(self.stage, match["text"])
