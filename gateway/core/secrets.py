"""Secrets: kept sealed, never shown, opened for a session of who may use them; and what sessions were given."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection
from ulid import ULID

from gateway.core import audit, keeping
from gateway.core.context import Gateway
from gateway.core.ports import Vault
from gateway.errors import Forbidden, SecretNotFound
from gateway.model.policy import Decision
from gateway.model.principal import Principal, Scope
from gateway.model.secret import KeptSecret, SecretRequest, SecretView, about_session
from gateway.store import projects
from gateway.store import secrets as store
from gateway.store.database import Database
from gateway.store.secrets import Place

_AT_ONCE = 200


async def list_secrets(gateway: Gateway, caller: Principal) -> list[SecretView]:
    """Those that the caller may use, without their values."""

    def load(connection: Connection) -> list[SecretView]:
        found = store.find(connection, caller)
        return [
            SecretView.model_validate(one, from_attributes=True)
            for one in found
            if keeping.decide(gateway, caller, "see", keeping.subject_of(connection, caller, one)).allowed
        ]

    return await gateway.db.read(load)


async def get(gateway: Gateway, caller: Principal, name: str, project: str | None = None) -> SecretView:
    """SecretNotFound, PolicyDenied."""

    def load(connection: Connection) -> SecretView:
        kept = store.get(connection, caller, name, project)
        keeping.may(gateway, caller, "see", keeping.subject_of(connection, caller, kept))
        return SecretView.model_validate(kept, from_attributes=True)

    return await gateway.db.read(load)


async def put(
    gateway: Gateway, caller: Principal, name: str, request: SecretRequest, project: str | None = None
) -> SecretView:
    """Keep a value under a name, in the place of the one before. A project's is set by its managers."""
    _may_keep(caller, project)
    secret_id, now = str(ULID()), gateway.clock()
    kept = KeptSecret(
        id=secret_id,
        name=name,
        user_id=caller.id if project is None else None,
        project=project,
        sealed="",
        created_at=now,
        updated_at=now,
        updated_by=caller.name,
    )
    sealed = gateway.vault.seal(request.value.get_secret_value(), kept.about)

    told = audit.by(gateway, caller)

    def write(connection: Connection) -> SecretView:
        if project is not None:
            projects.get(connection, caller, project)
        decision = keeping.may(gateway, caller, "set", keeping.subject_of(connection, caller, kept))
        view = store.put(connection, caller, kept.model_copy(update={"sealed": sealed}))
        audit.record(connection, told, "secret.set", "secret", name, project=project, policy=decision.policy)
        return view

    return await gateway.db.write(write)


async def remove(gateway: Gateway, caller: Principal, name: str, project: str | None = None) -> None:
    """Sessions that were given it keep it until they end."""
    _may_keep(caller, project)
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> None:
        if project is not None:
            projects.get(connection, caller, project)
        kept = store.get(connection, caller, name, project)
        decision = keeping.may(gateway, caller, "remove", keeping.subject_of(connection, caller, kept))
        store.remove(connection, kept.id)
        audit.record(connection, told, "secret.remove", "secret", name, project=project, policy=decision.policy)

    await gateway.db.write(write)


@dataclass(frozen=True)
class Resolved:
    """Values by name, and what the policies say of the use of each."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    decisions: tuple[Decision, ...] = ()


async def resolve(gateway: Gateway, caller: Principal, project: str, wanted: Mapping[str, bool]) -> Resolved:
    """The values of these names for a session in the project. SecretNotFound for one that is needed (True)."""
    if not wanted:
        return Resolved()

    def load(connection: Connection) -> tuple[dict[str, KeptSecret], tuple[Decision, ...]]:
        found = store.usable(connection, caller, project, list(wanted))
        subjects = [keeping.subject_of(connection, caller, one) for one in found.values()]
        return found, tuple(keeping.decide(gateway, caller, "use", subject) for subject in subjects)

    found, decisions = await gateway.db.read(load)
    missing = sorted(name for name, needed in wanted.items() if needed and name not in found)
    if missing:
        raise SecretNotFound(
            f"neither you nor project {project} has a secret {missing[0]!r}",
            hint=f"Set it: sluice secret set {missing[0]}.",
        )
    values = {name: gateway.vault.open_sealed(kept.sealed, kept.about) for name, kept in found.items()}
    return Resolved(values, decisions)


def seal_for(gateway: Gateway, session_id: str, values: Mapping[str, str]) -> str:
    """The values of a session, as they are kept until it ends."""
    return gateway.vault.seal(json.dumps(values), about_session(session_id))


async def given(gateway: Gateway, session_id: str) -> dict[str, str] | None:
    """What a session was given, by variable; None if nothing is kept."""
    sealed = await gateway.db.read(store.given, session_id)
    if sealed is None:
        return None
    values: dict[str, str] = json.loads(gateway.vault.open_sealed(sealed, about_session(session_id)))
    return values


@dataclass(frozen=True)
class Rotation:
    """What a rotation did: `begun` says whether it made a key, or went on where one had been broken off."""

    key: str
    begun: bool
    sealed_again: int
    forgotten: tuple[str, ...]


async def rotate(db: Database, vault: Vault) -> Rotation:
    """Make a new key and seal everything with it; broken off anywhere, the next call goes on from there.

    The key before stays in the file until the next rotation: a server may be about to write what it has just sealed.
    Keys from the environment are not ours to make: then everything is sealed with the first of them.
    """
    left = await db.read(store.sealed_otherwise, vault.current, 1)
    begun = not left and vault.in_file
    before = vault.ids
    if begun:
        vault.add()
    count = await _seal_again(db, vault)
    old = before[1:] if begun else ()
    used = await db.read(store.keys_in_use, old)
    forgotten = tuple(key for key in old if key not in used)
    if forgotten:
        vault.forget(forgotten)
    return Rotation(vault.current, begun, count, forgotten)


async def _seal_again(db: Database, vault: Vault) -> int:
    count = 0
    while places := await db.read(store.sealed_otherwise, vault.current, _AT_ONCE):
        again = []
        for place in places:
            kind, row_id, sealed = place
            about = f"{kind}:{row_id}"
            again.append((place, vault.seal(vault.open_sealed(sealed, about), about)))
        await db.write(_sealed_again, again, vault.current)
        count += len(again)
    return count


def _sealed_again(connection: Connection, places: Sequence[tuple[Place, str]], key: str) -> None:
    store.seal_again(connection, places)
    said: audit.Details = {"sealed_again": len(places)}
    audit.record(connection, audit.by_operator(), "key.rotate", "key", key, details=said)


def _may_keep(caller: Principal, project: str | None) -> None:
    caller.require(Scope.ADMIN)
    if not caller.id or caller.session is not None:
        raise Forbidden("you are nobody who could keep secrets")
    if project is None and caller.project is not None:
        raise Forbidden("this token is held to a project: it keeps the project's secrets alone", hint="Add --project.")
