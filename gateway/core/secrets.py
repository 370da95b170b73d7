"""Secrets: kept sealed, never shown, opened for a session of who may use them; and what sessions were given."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection
from ulid import ULID

from gateway.core import audit
from gateway.core.context import Gateway
from gateway.core.keeping import Keeper
from gateway.core.ports import Vault
from gateway.errors import SecretNotFound
from gateway.model.policy import Decision
from gateway.model.principal import Principal
from gateway.model.secret import KeptSecret, SecretRequest, SecretView, about_session
from gateway.store import secrets as store
from gateway.store.database import Database
from gateway.store.secrets import Place

_AT_ONCE = 200


KEEPER = Keeper(store.SHELF, SecretView, "secret.set", "secret.remove")


async def put(
    gateway: Gateway, caller: Principal, name: str, request: SecretRequest, project: str | None = None
) -> SecretView:
    """Keep a value under a name, in the place of the one before. A project's is set by its managers."""
    now = gateway.clock()
    kept = KeptSecret(
        id=str(ULID()),
        name=name,
        user_id=caller.id if project is None else None,
        project=project,
        sealed="",
        created_at=now,
        updated_at=now,
        updated_by=caller.name,
    )
    sealed = gateway.vault.seal(request.value.get_secret_value(), kept.about)
    return await KEEPER.put(gateway, caller, kept.model_copy(update={"sealed": sealed}))


@dataclass(frozen=True)
class Resolved:
    """Values by name, and what the policies say of the use of each."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    decisions: tuple[Decision, ...] = ()


async def resolve(gateway: Gateway, caller: Principal, project: str, wanted: Mapping[str, bool]) -> Resolved:
    """The values of these names for a session in the project. SecretNotFound for one that is needed (True)."""
    if not wanted:
        return Resolved()

    found = await KEEPER.usable(gateway, caller, project, wanted)
    missing = sorted(name for name, needed in wanted.items() if needed and name not in found)
    if missing:
        raise SecretNotFound(
            f"neither you nor project {project} has a secret {missing[0]!r}",
            hint=f"Set it: sluice secret set {missing[0]}.",
        )
    values = {name: gateway.vault.open_sealed(kept.sealed, kept.about) for name, (kept, _) in found.items()}
    return Resolved(values, tuple(decision for _, decision in found.values()))


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
