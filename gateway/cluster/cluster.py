"""A cluster from outside: bring it up, use it, end it, whatever state it is in."""

import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.cluster import config, host, keys, lifecycle, network, processes, record
from gateway.cluster.extras import HOST as EXTRAS_HOST
from gateway.cluster.files import Progress, busy, locked, silent
from gateway.cluster.machine import Machine
from gateway.cluster.record import Record
from gateway.cluster.spec import BUILD_PORT, SSH_PORT
from gateway.errors import ClusterError, ClusterNotFound


@dataclass(frozen=True)
class Cluster:
    """A cluster that was brought up here. Make one by `Cluster.up` or `Cluster.load`."""

    record: Record
    state: Path

    # ---------------------------------------------------------------- bring up and end

    @classmethod
    def up(
        cls,
        name: str = "local",
        nodes: int | None = None,
        release: str | None = None,
        gpus: str | None = None,
        *,
        mirror: str | None = None,
        images: str | None = None,
        extras: str | None = None,
        progress: Progress = silent,
    ) -> "Cluster":
        """The cluster of this name, with idle nodes; started now unless it is up already.

        What is not said is as it was in the cluster of this name, or 2 nodes, `sid` and `DEFAULT_GPUS` in a new one.
        What a killed `up` left is ended first. `images` names a directory of the machine to be /home/images: it stays
        when the cluster ends. `extras` ("pyslurm") are put on the login host, also of a cluster that is up already.
        Raises Invalid for what cannot be, Conflict where it is up with other settings, and ClusterError where it does
        not come up; nothing of it is left then.
        """
        asked = {"nodes": nodes, "release": release, "gpus": gpus, "images": images, "mirror": mirror, "extras": extras}
        given = {name: value for name, value in asked.items() if value is not None}
        made = lifecycle.up(name, given, progress=progress)
        return cls(made, record.state_of(name))

    @classmethod
    def load(cls, name: str) -> "Cluster":
        """The cluster of this name, up or broken. Raises ClusterNotFound."""
        state = record.state_of(name)
        found = record.load(state)
        if not found:
            raise ClusterNotFound(
                f"there is no cluster {name!r} on this machine",
                hint="sluice cluster list shows them; sluice cluster up makes one",
            )
        return cls(found, state)

    def down(self, progress: Progress = silent) -> None:
        lifecycle.end(self.name, progress)

    # ---------------------------------------------------------------- what it is

    @property
    def name(self) -> str:
        return self.record.spec.name

    @property
    def alive(self) -> bool:
        return self.record.alive

    @property
    def phase(self) -> Literal["up", "busy", "broken"]:
        """`busy`: an `up` or `down` of it is at work. `broken`: a host of it is gone, or it never came up."""
        if self.alive:
            return "up"
        return "busy" if busy(self.state) else "broken"

    @property
    def addresses(self) -> dict[str, str]:
        """Host → address. `build` is the machine's own address on the bridge."""
        return {host.name: self.record.net.address(host.octet) for host in self.record.spec.hosts}

    @property
    def rest_url(self) -> str:
        return config.rest_url(self.record.net)

    @property
    def user_ca_key(self) -> Path:
        return self.state / "keys" / "user_ca"

    @property
    def jwt_key(self) -> Path:
        return self.state / "keys" / "jwt_hs256.key"

    @property
    def known_hosts(self) -> Path:
        return self.state / "known_hosts"

    @property
    def home(self) -> Path:
        """The directory of this machine that is /home in the cluster."""
        return self.state / "home"

    def settings_toml(self) -> str:
        return config.settings_toml(self.record.spec, self.record.net, str(self.state))

    # ---------------------------------------------------------------- use it

    def exec_argv(self, host_name: str, argv: Sequence[str], user: str | None = None) -> list[str]:
        """The argv that runs `argv` in a host, for those who start processes themselves."""
        running = self.record.hosts.get(host_name)
        if not running:
            raise ClusterNotFound(
                f"cluster {self.name} has no host {host_name!r}", hint=f"one of: {', '.join(self.addresses)}"
            )
        if not running.entered:
            raise ClusterError(
                f"host {host_name} of cluster {self.name} is not running", hint=f"sluice cluster up --name {self.name}"
            )
        told = self.state / "layers" / host_name / "etc/environment"
        environment = config.read_environment(told.read_text(encoding="utf-8")) if told.exists() else {}
        return host.command(running, argv, user=user or "", environment=environment)

    def exec(
        self,
        host_name: str,
        argv: Sequence[str],
        user: str | None = None,
        input: str | None = None,  # noqa: A002 - as subprocess.run calls it
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a host, as root or as `user`; with `check` an exit code other than 0 raises ClusterError."""
        done = subprocess.run(
            self.exec_argv(host_name, argv, user),
            input=input if input is not None else "",
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise ClusterError(f"`{' '.join(argv)}` on {host_name} ended with {done.returncode}: {said}")
        return done

    def service(self, host_name: str, action: str, service: str) -> None:
        """`start`, `stop` or `restart` a daemon of a host, e.g. slurmctld of ctl; see `sluice-service` there."""
        self.exec(host_name, ["sluice-service", action, service])

    def signal(self, host_name: str, service: str, signal: Literal["STOP", "CONT", "KILL", "TERM", "HUP"]) -> None:
        """Signal a daemon of a host: STOP makes it hang, CONT lets it go on, KILL is a crash."""
        self.exec(host_name, ["sluice-service", "signal", service, signal])

    def cut_link(self, host_name: str) -> None:
        """Pull a host's network cable; what runs on the host goes on."""
        network.switch(self.record.net, self._octet(host_name), on=False)

    def restore_link(self, host_name: str) -> None:
        network.switch(self.record.net, self._octet(host_name), on=True)

    @contextmanager
    def ssh_argv(self, user: str, argv: Sequence[str] = (), host_name: str = "login") -> Iterator[list[str]]:
        """The argv of an ssh session as a user, with a certificate that is gone when the context ends.

        `argv` is what to run there: one string for the user's shell to read, or several, each one argument.
        """
        build = host_name == "build"
        remote = ["--", shlex.join(argv) if len(argv) > 1 else argv[0]] if argv else []
        with tempfile.TemporaryDirectory(prefix=".ssh-", dir=self.state) as folder:
            key = keys.certify(self.state / "keys", user, Path(folder))
            yield [
                "ssh", "-F", "none", "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR",
                "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "GlobalKnownHostsFile=none",
                "-o", "StrictHostKeyChecking=yes", "-p", str(BUILD_PORT if build else SSH_PORT),
                f"{user}@{self.addresses[host_name]}", *remote,
            ]  # fmt: skip

    def kill_host(self, name: str) -> None:
        """Pull a host's plug: every process of it is gone at once, and what it had written outside /home."""
        running = self.record.hosts[name]
        processes.kill_all(lambda: [running.init] if running.alive else [])

    def start_host(self, name: str) -> "Cluster":
        """Start a host whose plug was pulled, wait for its daemons, and return the cluster as it is then."""
        with locked(self.state, create=False) as there:
            if not there:
                raise ClusterNotFound(f"cluster {self.name} is not there any more")
            machine = Machine.look(self.record.mirror)
            made = lifecycle.start_host(record.load(self.state) or self.record, self.state, name, machine)
            made.save(self.state)
            lifecycle.wait_started(made, self.state, name)
            if name == EXTRAS_HOST:
                lifecycle.put_extras(made)
        return Cluster(made, self.state)

    def _octet(self, host_name: str) -> int:
        found = [each.octet for each in self.record.spec.hosts if each.name == host_name and each.role != "build"]
        if not found:
            raise ClusterNotFound(f"cluster {self.name} has no cable to a host {host_name!r}")
        return found[0]

    def running(self, host_name: str) -> bool:
        run = self.record.hosts.get(host_name)
        return run is not None and run.alive

    def logs(self, host_name: str, service: str = "") -> list[Path]:
        """The log files of a host, or of one daemon of it. Raises ClusterNotFound where there are none."""
        found = sorted((self.state / "logs" / host_name).glob(f"{service or '*'}.*"))
        if not found:
            raise ClusterNotFound(
                f"cluster {self.name} has no logs of {service or 'a host'} {'on' if service else 'called'} {host_name}",
                hint=f"its hosts: {', '.join(self.addresses)}",
            )
        return [path for path in found if path.stat().st_size] or found

    def nodes(self) -> list[dict[str, str]]:
        """What Slurm says of its nodes: name, state, GRES. Raises ClusterError when it does not answer."""
        said = self.exec("ctl", ["sinfo", "-h", "-N", "-p", "cpu", "-o", "%N|%T|%G"]).stdout
        return [dict(zip(("name", "state", "gres"), line.split("|"), strict=True)) for line in said.splitlines()]
