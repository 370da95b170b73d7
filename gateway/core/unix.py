"""Whose work runs as whom: a person's own Unix user on a cluster, never root, never a system user, never another's."""

from gateway.core.context import Cluster, Gateway
from gateway.errors import Unavailable
from gateway.model.fixed import forbidden
from gateway.model.principal import Principal
from gateway.model.user import check_unix
from gateway.store import users

_TIMEOUT = 15.0


async def user_of(gateway: Gateway, caller: Principal, cluster: Cluster) -> str:
    """The Unix user that the caller's work runs as. Forbidden if there is none, or none that may be."""
    if caller.kind == "local":
        return cluster.settings.user
    name = caller.unix.get(cluster.name)
    if name is None:
        raise forbidden(
            "fixed-unix-user",
            f"you have no Unix user on cluster {cluster.name}",
            f"An operator says which: sluice user set {caller.name} --unix {cluster.name}=NAME",
        )
    known = await gateway.db.read(users.uid, cluster.name, name)
    uid = known if known is not None else await look_up(cluster, name)
    if uid is not None and known is None:
        await gateway.db.write(users.set_uid, cluster.name, name, uid)
    check(gateway, name, uid)
    return name


def check(gateway: Gateway, name: str, uid: int | None) -> None:
    """Forbidden if nothing may run as this Unix user."""
    settings = gateway.settings.identity
    check_unix(name, uid, floor=settings.uid_floor, denied=settings.denied_unix_users)


async def look_up(cluster: Cluster, name: str) -> int | None:
    """The uid of a Unix user, as the cluster's login node knows it; None where nobody can be asked.

    Forbidden if there is no such user.
    """
    if cluster.shell is None:
        return None
    try:
        done = await cluster.shell.run(["id", "-u", "--", name], user=cluster.settings.user, timeout=_TIMEOUT)
    except Unavailable:
        return None
    text = done.stdout.strip()
    if done.returncode != 0 or not text.isdigit():
        raise forbidden("fixed-unix-name", f"cluster {cluster.name} knows no Unix user {name!r}")
    return int(text)
