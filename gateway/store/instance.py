"""A gateway's own name among those that may share a Slurm: made once, kept in the database, the same on replicas."""

from sqlalchemy import Connection, insert, select

from gateway.store.schema import instance


def ensure(connection: Connection, fresh: str) -> str:
    """The name; `fresh` becomes it where there is none yet."""
    found = connection.execute(select(instance.c.id)).scalar()
    if found is None:
        connection.execute(insert(instance), {"id": fresh})
        return fresh
    return str(found)
