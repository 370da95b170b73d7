"""Puts a gateway together from its settings: database, clusters, catalogue, agents. Used by whatever runs one."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from gateway.core.context import Cluster, Gateway
from gateway.core.cost import Cost
from gateway.core.feed import hear
from gateway.core.policies import Policies
from gateway.core.recipes import Catalogue
from gateway.data import folder
from gateway.errors import SettingsInvalid
from gateway.identity.keyring import Keyring
from gateway.identity.pki import Pki
from gateway.network.agents import AgentChannel, AgentPath
from gateway.network.way import Way
from gateway.settings import Settings
from gateway.slurm.connect import connect
from gateway.store import instance as instances
from gateway.store.database import Database


@asynccontextmanager
async def assemble(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway while the block runs. SettingsInvalid says what is missing; nothing of Slurm is contacted yet."""
    if not settings.clusters:
        raise SettingsInvalid(
            "no cluster is configured, and there is no sbatch here",
            hint="`sluice cluster up` makes one on this machine, `sluice cluster env` prints what sluice.toml needs.",
        )
    for name, cluster in settings.clusters.items():
        if cluster.user == "root":
            raise SettingsInvalid(
                f"clusters.{name}: jobs would run as root",
                hint=f"Name the Unix user of the jobs: clusters.{name}.unix_user.",
            )
    policies = await asyncio.to_thread(Policies, settings.policy.folders)
    pki = Pki(settings.state_dir)
    database = Database(settings.database)
    await asyncio.to_thread(database.open)
    instance = await database.write(instances.ensure, secrets.token_hex(4))
    gateway = Gateway(
        settings=settings,
        instance=instance,
        db=database,
        clusters={name: _cluster(settings, name, pki) for name in settings.clusters},
        catalogue=Catalogue([folder("recipes"), *settings.recipes.folders]),
        agents=AgentChannel(AgentPath(lambda: pki.client().file)),
        vault=Keyring.open(settings.state_dir, settings.secrets.key_file, os.environ),
        client_ca=pki.ca_pem,
        clock=lambda: datetime.now(UTC),
        policies=policies,
    )
    hearing = asyncio.create_task(hear(database, gateway.news, gateway.work), name="hear")
    try:
        yield gateway
    finally:
        hearing.cancel()
        await asyncio.wait({hearing})
        await gateway.close()


def _cluster(settings: Settings, name: str, pki: Pki) -> Cluster:
    cost = Cost()
    backend = connect(settings.clusters[name], name=name, cost=cost)
    way = Way(settings.clusters[name].path, backend.tunnel) if backend.tunnel is not None else None
    return Cluster(
        name=name,
        settings=settings.clusters[name],
        scheduler=backend.scheduler,
        files=backend.files,
        build_shell=backend.build_shell,
        cost=cost,
        shell=backend.shell,
        accounts=backend.accounts,
        way=way,
        agents=AgentChannel(AgentPath(lambda: pki.client().file, way=way)) if way is not None else None,
    )
