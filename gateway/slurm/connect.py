"""From a cluster's settings to its back end: how Slurm is asked, how files are reached, where commands run."""

import os
import pwd
import sys
import time
from dataclasses import dataclass, replace

from gateway.core.cost import Cost
from gateway.core.ports import Accounts, Files, Inspection, Scheduler, Shell, Tunnel
from gateway.errors import SettingsInvalid
from gateway.settings import ClusterSettings
from gateway.slurm.accounts import CommandAccounts
from gateway.slurm.cli import CliScheduler
from gateway.slurm.counted import CountedShell
from gateway.slurm.inspect import CommandInspection, RestInspection
from gateway.slurm.libslurm import Libslurm
from gateway.slurm.mounted import MountedFiles
from gateway.slurm.places import WithPlaces
from gateway.slurm.pyslurm import PyslurmInspection, PyslurmScheduler
from gateway.slurm.rest import RestScheduler
from gateway.slurm.rest_http import RestClient
from gateway.slurm.sftp import SftpFiles
from gateway.slurm.ssh import SshConnections
from gateway.slurm.ssh_login import SshTarget
from gateway.slurm.tokens import Tokens
from gateway.slurm.transport import LocalShell, SshShell
from gateway.slurm.tunnel import SshTunnel


@dataclass(frozen=True)
class Backend:
    """One cluster's adapters. `build_shell` is the machine on which images are built.

    `inspections`: every way to ask the cluster about itself, the one that knows most first. `tunnel`: the way to its
    nodes through its login node, where there is one and the settings want it.
    """

    name: str
    scheduler: Scheduler
    files: Files
    shell: Shell
    build_shell: Shell
    inspections: tuple[Inspection, ...] = ()
    accounts: Accounts | None = None
    tunnel: Tunnel | None = None

    async def close(self) -> None:
        for part in (self.scheduler, self.files, self.shell, self.build_shell, self.tunnel):
            if part is not None:
                await part.close()


def connect(cluster: ClusterSettings, *, name: str, cost: Cost | None = None) -> Backend:
    """Put a cluster's adapters together. Nothing is contacted yet; SettingsInvalid names what is missing.

    What Slurm is asked by the scheduler is counted in `cost`.
    """
    cost = cost or Cost()
    login = (
        SshConnections(_target(cluster, name, "ssh_host", cluster.ssh_host, cluster.ssh_port), time.time)
        if cluster.ssh_host
        else None
    )
    shell: Shell = SshShell(login) if login is not None else LocalShell()
    build_shell = shell
    if cluster.build_host and (cluster.build_host, cluster.build_port) != (cluster.ssh_host, cluster.ssh_port):
        target = _target(cluster, name, "build_host", cluster.build_host, cluster.build_port)
        build_shell = SshShell(SshConnections(target, time.time))
    files: Files
    if cluster.files == "sftp":
        if login is None:
            raise _missing(name, "ssh_host", 'files = "sftp"')
        files = SftpFiles(login)
    else:
        files = MountedFiles()
    client = _rest_client(cluster, name, cost) if cluster.backend == "rest" else None
    libslurm = _libslurm(cluster, name, cost) if cluster.backend == "pyslurm" else None
    counted = CountedShell(shell, cost)
    scheduler = _scheduler(cluster, name, counted, client, libslurm)
    inspections: list[Inspection] = []
    if login is not None or client is None:
        where = cluster.ssh_host or "this machine"
        inspections.append(CommandInspection(shell, viewer=cluster.user, where=where))
        scheduler = WithPlaces(scheduler, counted, viewer=cluster.user)
    if client is not None:
        inspections.append(RestInspection(client, viewer=cluster.user))
    if libslurm is not None:
        inspections.append(PyslurmInspection(libslurm))
    return Backend(
        name=name,
        scheduler=scheduler,
        files=files,
        shell=shell,
        build_shell=build_shell,
        inspections=tuple(inspections),
        accounts=CommandAccounts(shell, operator=cluster.operator_user) if cluster.operator_user else None,
        tunnel=_tunnel(cluster, name),
    )


def _tunnel(cluster: ClusterSettings, name: str) -> Tunnel | None:
    if cluster.path == "direct" or (cluster.path == "auto" and not cluster.ssh_host):
        return None
    if not cluster.ssh_host:
        raise _missing(name, "ssh_host", 'path = "ssh"')
    target = _target(cluster, name, "ssh_host", cluster.ssh_host, cluster.ssh_port)
    return SshTunnel(replace(target, forwards=True), cluster.user, time.time)


def _scheduler(
    cluster: ClusterSettings, name: str, shell: Shell, client: RestClient | None, libslurm: Libslurm | None
) -> Scheduler:
    if libslurm is not None:
        return PyslurmScheduler(libslurm, cluster=name, user=cluster.user, comment_field=cluster.comment_field)
    if client is None:
        if cluster.comment_field != "comment":
            raise SettingsInvalid(
                f"clusters.{name}.comment_field: squeue shows no {cluster.comment_field!r}",
                hint='Use comment_field = "comment", or backend = "rest".',
            )
        return CliScheduler(shell, cluster=name, viewer=cluster.user)
    return RestScheduler(client, cluster=name, viewer=cluster.user, comment_field=cluster.comment_field)


def _rest_client(cluster: ClusterSettings, name: str, cost: Cost) -> RestClient:
    if not cluster.rest_url:
        raise _missing(name, "rest_url", 'backend = "rest"')
    if not cluster.jwt_key_file:
        raise _missing(name, "jwt_key_file", 'backend = "rest"')
    tokens = Tokens(cluster.jwt_key_file, time.time)
    try:
        return RestClient(cluster.rest_url, tokens, cost=cost, ca_file=cluster.rest_ca_file)
    except OSError as error:
        raise SettingsInvalid(
            f"clusters.{name}.rest_ca_file: {cluster.rest_ca_file}: {error.strerror or error}",
            hint="A PEM file with the certificate of the CA that signed slurmrestd's.",
        ) from error


def _libslurm(cluster: ClusterSettings, name: str, cost: Cost) -> Libslurm:
    """Who runs it is whom libslurm acts as, so that must be whose the jobs are; and never root."""
    if os.geteuid() == 0:
        raise SettingsInvalid(
            f'clusters.{name}.backend = "pyslurm": libslurm would act as root, who runs this gateway',
            hint='Run the gateway as the person whose jobs these are, or set backend = "rest".',
        )
    here = pwd.getpwuid(os.geteuid()).pw_name
    if cluster.user != here:
        raise SettingsInvalid(
            f'clusters.{name}.unix_user = "{cluster.user}": libslurm acts as {here}, who runs this gateway',
            hint='Leave unix_user out; for other users set backend = "rest".',
        )
    return Libslurm([str(cluster.pyslurm_python or sys.executable)], cost=cost)


def _target(cluster: ClusterSettings, name: str, key: str, host: str, port: int) -> SshTarget:
    if cluster.known_hosts_file is None:
        raise _missing(name, "known_hosts_file", key)
    if cluster.ssh_key_file is None and cluster.user_ca_key_file is None and not cluster.ssh_agent:
        raise _missing(name, "user_ca_key_file (or ssh_key_file, or ssh_agent)", key)
    if sum((cluster.ssh_key_file is not None, cluster.user_ca_key_file is not None, cluster.ssh_agent)) > 1:
        raise SettingsInvalid(
            f"clusters.{name}: more than one of user_ca_key_file, ssh_key_file and ssh_agent is set",
            hint="One way to log in: certificates by the user CA where jobs run as many users; else a key or an agent.",
        )
    return SshTarget(host, port, cluster.known_hosts_file, cluster.user_ca_key_file, cluster.ssh_key_file)


def _missing(name: str, field: str, because: str) -> SettingsInvalid:
    return SettingsInvalid(
        f"clusters.{name}.{field} is not set, and {because} needs it",
        hint="`sluice cluster env` prints what the local cluster needs; docs/concepts/slurm.md says what each is.",
    )
