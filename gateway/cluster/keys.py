"""The cluster's keys, all made before anything starts: user CA, host keys, munge and token keys."""

import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from gateway.cluster.files import write_whole
from gateway.errors import ClusterError


def ensure(folder: Path, hosts: Iterable[str]) -> None:
    """Make the keys that are missing; those that are there stay, so that what a gateway knows stays true."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("user_ca", *(f"host_{host}" for host in hosts)):
        if not ((folder / name).exists() and (folder / f"{name}.pub").exists()):
            _ssh_key(folder, name)
    for name, size in (("jwt_hs256.key", 32), ("munge.key", 128)):
        if not (folder / name).exists():
            write_whole(folder / name, os.urandom(size), mode=0o600)


def public(folder: Path, name: str) -> str:
    """`TYPE BASE64` of a key's public half."""
    return " ".join((folder / f"{name}.pub").read_text(encoding="ascii").split()[:2])


def certify(folder: Path, user: str, into: Path, *, seconds: int = 3600) -> Path:
    """Make a key in `into` with a certificate of the user CA beside it, good for this user and this long."""
    key = into / "id_ed25519"
    _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", user, "-f", str(key)])
    sign = ["ssh-keygen", "-q", "-s", str(folder / "user_ca"), "-I", f"sluice cluster ssh {user}", "-n", user]
    _run([*sign, "-V", f"-1m:+{seconds}s", f"{key}.pub"])
    return key


def _ssh_key(folder: Path, name: str) -> None:
    """In a folder of its own first: a kill in between must not leave half a pair."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = Path(temporary) / name
        _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(made)])
        made.with_suffix(".pub").replace(folder / f"{name}.pub")
        made.replace(folder / name)


def _run(argv: list[str]) -> None:
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise ClusterError(
            "ssh-keygen is not installed on this machine", hint="apt-get install openssh-client"
        ) from error
    except subprocess.CalledProcessError as error:
        raise ClusterError(f"ssh-keygen failed: {error.stderr.strip()}") from error
