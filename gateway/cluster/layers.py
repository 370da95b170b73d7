"""Lays a host's own files out as an overlay layer: configuration, keys and scripts, with the owners they need."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from gateway.cluster import config, keys
from gateway.cluster.files import write_whole
from gateway.cluster.machine import Machine
from gateway.cluster.rootfs import script
from gateway.cluster.spec import PEOPLE, Host, Net, Spec

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Layer:
    """A directory tree laid over the root file system; `owners` are the rootfs's users by name."""

    path: Path
    rootfs: Path
    owners: dict[str, tuple[int, int]]

    def add(self, name: str, content: str | bytes, *, mode: int = 0o644, owner: str = "root") -> None:
        """Put a file at the absolute path `name`. Its directories look as in the rootfs: the layer's hide those."""
        target = self.path / name.lstrip("/")
        made = [folder for folder in reversed(target.relative_to(self.path).parents) if folder != Path()]
        for folder in (Path(), *made):
            here, below = self.path / folder, self.rootfs / folder
            here.mkdir(parents=True, exist_ok=True)
            if below.is_dir():
                shutil.copystat(below, here)
                shutil.chown(here, below.stat().st_uid, below.stat().st_gid)
            else:
                here.chmod(0o755)
        write_whole(target, content, mode=mode, owner=self.owners[owner])


def owners_of(rootfs: Path) -> dict[str, tuple[int, int]]:
    """User → (uid, gid) in the root file system, which are not this machine's."""
    users = (line.split(":") for line in (rootfs / "etc/passwd").read_text(encoding="utf-8").splitlines())
    return {name: (int(uid), int(gid)) for name, _, uid, gid, *_ in users}


def common(layer: Layer, spec: Spec, net: Net, key_dir: Path) -> None:
    """What all hosts share."""
    jwt = (key_dir / "jwt_hs256.key").read_bytes()
    layer.add("/etc/slurm/slurm.conf", config.slurm_conf(spec))
    layer.add("/etc/slurm/gres.conf", config.gres_conf(spec))
    layer.add("/etc/slurm/cgroup.conf", "CgroupPlugin=disabled\n")
    layer.add("/etc/slurm/jwt_hs256.key", jwt, mode=0o600, owner="slurm")
    layer.add("/etc/munge/munge.key", (key_dir / "munge.key").read_bytes(), mode=0o400, owner="munge")
    layer.add("/etc/hosts", config.hosts_file(spec, net))
    layer.add("/etc/ssh/user_ca.pub", keys.public(key_dir, "user_ca") + "\n")
    layer.add("/etc/ssh/sshd_config", config.sshd_config())
    layer.add("/etc/environment", config.environment_file({"PATH": _PATH, "LANG": "C.UTF-8"}))
    layer.add("/usr/local/lib/sluice/init", script("init-host.sh"), mode=0o755)
    layer.add("/usr/local/sbin/sluice-service", script("service.sh"), mode=0o755)
    localtime = Path("/etc/localtime")
    if localtime.exists():
        layer.add("/etc/localtime", localtime.read_bytes())


def own(layer: Layer, spec: Spec, net: Net, key_dir: Path, host: Host, machine: Machine) -> None:
    """What only this host has."""
    layer.add("/etc/hostname", f"{host.name}\n")
    layer.add("/etc/ssh/ssh_host_ed25519_key", (key_dir / f"host_{host.name}").read_bytes(), mode=0o600)
    if host.role == "ctl":
        layer.add("/etc/slurm/slurmdbd.conf", config.slurmdbd_conf(), mode=0o600, owner="slurm")
        layer.add("/usr/local/lib/sluice/accounts", config.accounts_script(spec), mode=0o755)
    if host.role == "build":
        environment = build_environment(machine)
        listen = net.address(host.octet)
        layer.add("/etc/ssh/sshd_config", config.sshd_config(listen=listen, environment=environment))
        layer.add("/etc/environment", config.environment_file(environment | {"PATH": _PATH, "LANG": "C.UTF-8"}))
        layer.add("/etc/resolv.conf", machine.resolv_conf)
        layer.add("/etc/apt/apt.conf.d/00machine", machine.apt_options)
        layer.add("/etc/pip.conf", machine.pip_conf)


def build_environment(machine: Machine) -> dict[str, str]:
    """What sessions on the build host find in their environment.

    `SLUICE_DEBIAN_MIRROR` may be empty (the machine names none); `SLUICE_BUILD_BINDS` lists, with commas, what a build
    has to bind so that the configuration is true inside a container too.
    """
    binds = ["/etc/pip.conf", *machine.binds]
    return dict(machine.environment) | {
        "SLUICE_DEBIAN_MIRROR": machine.mirror,
        "SLUICE_APT_CONF": "/etc/apt/apt.conf.d/00machine",
        "SLUICE_BUILD_BINDS": ",".join(binds),
    }


def homes(path: Path, rootfs: Path) -> None:
    """Home directories as useradd makes them (0755: what is private has to be made so), and /home/images for all."""
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
    for person in PEOPLE:
        home = path / person.name
        if not home.exists():
            home.mkdir()
            for name in (".bashrc", ".profile"):
                shutil.copy(rootfs / "etc/skel" / name, home / name)
                shutil.chown(home / name, person.uid, person.uid)
        home.chmod(0o755)
        shutil.chown(home, person.uid, person.uid)
    images = path / "images"
    images.mkdir(exist_ok=True)
    images.chmod(0o1777)  # like /tmp: everybody adds images, nobody removes another's
