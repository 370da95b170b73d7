"""libslurm on a cluster's login host, as a gateway there would start it: its process, and a scheduler over it."""

from collections.abc import Sequence

from gateway.cluster import Cluster
from gateway.slurm.libslurm import Libslurm
from gateway.slurm.pyslurm import PyslurmScheduler

PYTHON = ("python3",)


def on_login(cluster: Cluster, user: str = "alice", *, python: Sequence[str] = PYTHON, timeout: float = 60) -> Libslurm:
    """The process, not started yet; pyslurm is put on the host if it is not there (built once: a minute or two)."""
    there = Cluster.up(cluster.name, extras="pyslurm")
    return Libslurm(there.exec_argv("login", python, user=user), timeout=timeout)


def scheduler(cluster: Cluster, user: str = "alice", *, timeout: float = 60) -> PyslurmScheduler:
    return PyslurmScheduler(on_login(cluster, user, timeout=timeout), cluster="login", user=user)
