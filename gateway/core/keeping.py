"""What people and projects keep by name, secrets and volumes: list, get, set, remove, and what a session may use."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import Connection

from gateway.core import audit
from gateway.core.asking import decide, may
from gateway.core.context import Gateway
from gateway.model.audit import AuditLine
from gateway.model.fixed import forbidden
from gateway.model.named import Named, NamedView
from gateway.model.policy import Decision, Kept
from gateway.model.principal import Principal
from gateway.store import named as store
from gateway.store import projects
from gateway.store.named import Shelf

K = TypeVar("K", bound=Named)
V = TypeVar("V", bound=NamedView)


@dataclass(frozen=True)
class Keeper(Generic[K, V]):
    """One kind of it, from the shelf to how the API shows it; and what the audit log calls what is done to it."""

    shelf: Shelf[K]
    view: type[V]
    set_as: str
    removed_as: str

    async def list(self, gateway: Gateway, caller: Principal) -> list[V]:
        """Those that the caller may know of, and that the policies let them see."""

        def load(connection: Connection) -> list[V]:
            found = store.find(connection, self.shelf, caller)
            return [
                self._show(one)
                for one in found
                if decide(gateway, caller, "see", subject_of(connection, caller, one)).allowed
            ]

        return await gateway.db.read(load)

    async def get(self, gateway: Gateway, caller: Principal, name: str, project: str | None = None) -> V:
        """NotFound, PolicyDenied."""

        def load(connection: Connection) -> V:
            found = store.get(connection, self.shelf, caller, name, project)
            may(gateway, caller, "see", subject_of(connection, caller, found))
            return self._show(found)

        return await gateway.db.read(load)

    async def put(self, gateway: Gateway, caller: Principal, kept: K) -> V:
        """Keep it, in the place of what had the name. ProjectNotFound, PolicyDenied."""
        if not caller.id:
            raise forbidden("fixed-somebody", f"you are nobody who could keep a {self.shelf.word}")
        told = audit.by(gateway, caller)

        def write(connection: Connection) -> V:
            if kept.project is not None:
                projects.get(connection, caller, kept.project)
            decision = may(gateway, caller, "set", subject_of(connection, caller, kept))
            made = store.put(connection, self.shelf, caller, kept)
            _record(connection, told, self.set_as, made, decision)
            return self._show(made)

        return await gateway.db.write(write)

    async def remove(self, gateway: Gateway, caller: Principal, name: str, project: str | None = None) -> None:
        """Forget it; sessions that have it keep it until they end. NotFound, PolicyDenied."""
        told = audit.by(gateway, caller)

        def write(connection: Connection) -> None:
            kept = store.get(connection, self.shelf, caller, name, project)
            decision = may(gateway, caller, "remove", subject_of(connection, caller, kept))
            store.remove(connection, self.shelf, kept.id)
            _record(connection, told, self.removed_as, kept, decision)

        await gateway.db.write(write)

    async def usable(
        self,
        gateway: Gateway,
        caller: Principal,
        project: str,
        names: Collection[str],
        cluster: str | None = None,
    ) -> dict[str, tuple[K, Decision]]:
        """By name, with what the policies say of its use in a session of the caller's in the project."""

        def load(connection: Connection) -> dict[str, tuple[K, Decision]]:
            found = store.usable(connection, self.shelf, caller, project, names, cluster)
            return {
                name: (one, decide(gateway, caller, "use", subject_of(connection, caller, one)))
                for name, one in found.items()
            }

        return await gateway.db.read(load)

    def _show(self, kept: K) -> V:
        return self.view.model_validate(kept, from_attributes=True)


def _record(connection: Connection, told: AuditLine, action: str, kept: Named, decision: Decision) -> None:
    audit.record(
        connection,
        told,
        action,
        kept.kind.lower(),
        kept.name,
        project=kept.project,
        policy=decision.policy,
        details=dict(kept.seen),
    )


def subject_of(connection: Connection, caller: Principal, kept: Named) -> Kept:
    """What is kept, as policies see it: what is nobody's project's is the caller's own."""
    return Kept(
        kind=kept.kind,
        id=kept.id,
        name=kept.name,
        owner=caller.name if kept.project is None else None,
        project=kept.project,
        labels=projects.labels(connection, kept.project) if kept.project is not None else {},
        **kept.seen,
    )
