"""What was last seen of each cluster: written by the reconcile loop, so that reading asks no Slurm."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, delete, insert, select

from gateway.model.inventory import Inventory
from gateway.store.schema import clusters


class SeenCluster(BaseModel):
    """One cluster at the last poll; `polled_at` is the last poll that was answered."""

    model_config = ConfigDict(frozen=True)

    name: str
    backend: str
    slurm_version: str = ""
    reachable: bool
    message: str = ""
    polled_at: datetime | None = None
    poll_seconds: float | None = None
    inventory: Inventory | None = None


def save(connection: Connection, seen: SeenCluster) -> None:
    connection.execute(delete(clusters).where(clusters.c.name == seen.name))
    values = seen.model_dump(exclude={"inventory"})
    inventory = seen.inventory.model_dump(mode="json") if seen.inventory else None
    connection.execute(insert(clusters).values(**values, inventory=inventory))


def every(connection: Connection) -> list[SeenCluster]:
    rows = connection.execute(select(clusters).order_by(clusters.c.name))
    return [SeenCluster.model_validate(row, from_attributes=True) for row in rows]
