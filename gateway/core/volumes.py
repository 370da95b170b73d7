"""Volumes: named directories that sessions mount; what a session may mount, and where it lies."""

from collections.abc import Sequence
from dataclasses import dataclass

from ulid import ULID

from gateway.core.context import Cluster, Gateway
from gateway.core.keeping import Keeper
from gateway.core.placement import Placement
from gateway.errors import Conflict, Invalid
from gateway.model.plan import PlannedMount
from gateway.model.policy import Decision
from gateway.model.principal import Principal
from gateway.model.volume import KeptVolume, VolumeRequest, VolumeUse, VolumeView, place_of
from gateway.settings import VolumeClass, nearest
from gateway.store import volumes as store

KEEPER = Keeper(store.SHELF, VolumeView, "volume.set", "volume.remove")


async def put(
    gateway: Gateway, caller: Principal, name: str, request: VolumeRequest, project: str | None = None
) -> VolumeView:
    """Name a directory, in the place of what had the name. A project's volumes are named by its managers.

    Nothing is made on the cluster: the first session that may write there makes the directory, as the person.
    """
    cluster = gateway.cluster(request.cluster)
    class_of(cluster, request.volume_class, project)
    kept = KeptVolume(
        id=str(ULID()),
        name=name,
        user_id=caller.id if project is None else None,
        project=project,
        cluster=cluster.name,
        volume_class=request.volume_class,
        path=request.path or name,
        created_at=gateway.clock(),
        created_by=caller.name,
    )
    return await KEEPER.put(gateway, caller, kept)


def class_of(cluster: Cluster, name: str, project: str | None) -> VolumeClass:
    """A class of the cluster's, for a volume of a project or of a person. Invalid."""
    known = cluster.settings.volumes
    if name not in known:
        raise Invalid(f"there is no volume class {name!r} on cluster {cluster.name}", hint=nearest(name, set(known)))
    found = known[name]
    if (found.of == "project") != (project is not None):
        whose = "projects" if found.of == "project" else "people"
        raise Invalid(
            f"volumes of the class {name!r} are of {whose}",
            hint="Say which: --project NAME." if found.of == "project" else "Leave --project away.",
        )
    return found


def asked(mounts: Sequence[PlannedMount], uses: Sequence[VolumeUse]) -> tuple[PlannedMount, ...]:
    """The mounts of a plan with those of a request. Invalid if two have one place in the container."""
    more = [PlannedMount(source=".", target=use.place, writable=use.writable, volume=use.name) for use in uses]
    places = [mount.target.rstrip("/") for mount in (*mounts, *more)]
    for place in places:
        if places.count(place) > 1:
            raise Invalid(f"two mounts have the place {place} in the container", hint="--volume NAME:/another/place")
    return (*mounts, *more)


@dataclass(frozen=True)
class Mounted:
    """The mounts of a plan with where volumes lie, and what the policies say of each volume."""

    mounts: tuple[PlannedMount, ...]
    decisions: tuple[Decision, ...]


async def resolve(
    gateway: Gateway, caller: Principal, cluster: Cluster, where: Placement, mounts: Sequence[PlannedMount]
) -> Mounted:
    """Where the volumes among the mounts lie, for a session of the caller's. VolumeNotFound."""
    names = {mount.volume for mount in mounts if mount.volume is not None}
    if not names:
        return Mounted(tuple(mounts), ())

    found = await KEEPER.usable(gateway, caller, where.project, names, cluster.name)
    missing = sorted(names - found.keys())
    if missing:
        raise store.SHELF.unknown(missing[0], None if where.share is None else where.project)
    placed = [
        mount if mount.volume is None else _placed(cluster, where, mount, found[mount.volume][0]) for mount in mounts
    ]
    return Mounted(tuple(placed), tuple(found[name][1] for name in sorted(names)))


def _placed(cluster: Cluster, where: Placement, mount: PlannedMount, volume: KeptVolume) -> PlannedMount:
    kind = cluster.settings.volumes.get(volume.volume_class)
    if kind is None:
        raise Conflict(f"the class {volume.volume_class!r} of the volume {volume.name} is not there any more")
    place = place_of(kind.root, volume.path, user=where.unix_user, project=volume.project)
    return mount.model_copy(
        update={
            "source": place.source,
            "below": place.root,
            "volume_class": volume.volume_class,
            "writable": mount.writable and kind.writable,
        }
    )
