"""The gateway put together: what every use case needs, made once by the process that serves it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from gateway.core.bell import Bell
from gateway.core.cost import Cost
from gateway.core.feed import Feed
from gateway.core.policies import Policies
from gateway.core.ports import Accounts, Agents, Clock, Files, Scheduler, Shell, Vault, Way
from gateway.core.recipes import Catalogue
from gateway.core.witness import Witness
from gateway.errors import ClusterNotFound
from gateway.settings import ClusterSettings, Settings
from gateway.store.database import Database


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One Slurm installation with its ways in.

    `build_shell` runs image builds, `shell` commands on the login node; None where nothing can be run. `cost` counts
    what its Slurm is asked. `accounts` keeps who may run under which account; None where no operator is named. `way` is
    how its nodes are reached, and `agents` the agents there, if not straight from here.
    """

    name: str
    settings: ClusterSettings
    scheduler: Scheduler
    files: Files
    build_shell: Shell | None = None
    cost: Cost = field(default_factory=Cost)
    shell: Shell | None = None
    accounts: Accounts | None = None
    way: Way | None = None
    agents: Agents | None = None

    async def close(self) -> None:
        """Let go of every connection."""
        await self.scheduler.close()
        await self.files.close()
        if self.build_shell is not None:
            await self.build_shell.close()
        if self.shell is not None:
            await self.shell.close()
        if self.way is not None:
            await self.way.close()


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """`work` is rung when there is something to reconcile, `news` when events were written; `feed` holds the newest.

    `witness` tells the audit log what was refused.

    `moment` gives seconds on a clock that nobody sets. `instance` is this gateway's own name among those that share a
    Slurm; replicas have the same.
    """

    settings: Settings
    db: Database
    clusters: Mapping[str, Cluster]
    catalogue: Catalogue
    agents: Agents
    vault: Vault
    client_ca: str
    instance: str
    clock: Clock
    policies: Policies = field(default_factory=Policies)
    moment: Callable[[], float] = field(default=partial(time.clock_gettime, time.CLOCK_BOOTTIME))
    work: Bell = field(default_factory=Bell)
    news: Bell = field(default_factory=Bell)
    feed: Feed = field(init=False)
    witness: Witness = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "feed", Feed(self.db, self.news))
        object.__setattr__(self, "witness", Witness(self.db, self.clock))

    def cluster(self, name: str | None = None) -> Cluster:
        """The named cluster, or the default one."""
        wanted, _ = self.settings.cluster(name)
        if wanted not in self.clusters:
            raise ClusterNotFound(f"the cluster {wanted!r} is not connected")
        return self.clusters[wanted]

    async def close(self) -> None:
        """Close the clusters and then the database."""
        await asyncio.gather(*(cluster.close() for cluster in self.clusters.values()))
        self.db.close()
