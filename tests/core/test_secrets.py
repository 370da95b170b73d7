"""Secrets of sessions: resolved when they are asked for, kept sealed, delivered by file or push, gone at the end."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from gateway.core import secrets, sessions
from gateway.errors import ParameterInvalid, SecretNotFound
from gateway.identity.keyring import Keyring
from gateway.model.announcement import Endpoint
from gateway.model.secret import SecretRequest
from gateway.model.session import Phase, Session
from gateway.store import secrets as store
from gateway.store.people import secrets as table
from gateway.store.people import session_secrets
from gateway.store.views import view

Ask = Callable[..., Awaitable[Session]]
VALUE = "hf_ThisMustNotBeSeen"
FIRST, SECOND = (Endpoint(host="10.0.0.1", port=4000, fingerprint=letter * 64) for letter in "ab")
NAMED = (
    'name: named\nversion: "1"\nkind: batch\nimage: base\ncommand: [run]\n'
    "secrets:\n  HF_TOKEN: {secret: hub}\n  MORE: {secret: more, required: false}\n"
)


@pytest.fixture(autouse=True)
def known(world: Any, recipes: Path) -> None:
    """The caller is somebody who can have secrets, and there is a recipe that wants some."""
    (recipes / "named.yaml").write_text(NAMED)
    world.caller = world.caller.model_copy(update={"id": "local"})


async def keep(world: Any, name: str, value: str = VALUE, project: str | None = None) -> None:
    await secrets.put(world.gateway, world.caller, name, SecretRequest(value=SecretStr(value)), project)


async def sealed_of(world: Any) -> list[str]:
    def read(connection: Any) -> list[str]:
        return [str(row) for one in (table, session_secrets) for row in connection.execute(select(one.c.sealed))]

    return list(await world.gateway.db.read(read))


def says(endpoint: Endpoint, word: str = "secrets") -> str:
    return f"sluice/1@0a1b2c3d {word} tcp={endpoint.host}:{endpoint.port} sha256={endpoint.fingerprint}"


async def test_a_named_secret_reaches_the_job_as_a_file_and_stands_nowhere_else(world: Any, ask: Ask) -> None:
    await keep(world, "hub")
    session = await ask("named")
    assert dict(session.plan.secrets) == {"HF_TOKEN": "secret:hub"}
    staged = world.home / "sessions" / session.id / "secrets.json"
    await world.turn()
    assert (staged.read_text(), staged.stat().st_mode & 0o777) == (f'{{"HF_TOKEN": "{VALUE}"}}', 0o600)
    script = world.slurm.submitted()[0][0]
    shown = [script.model_dump_json(), view(session).model_dump_json(), *await sealed_of(world)]
    assert VALUE not in "".join(shown)
    assert len(await sealed_of(world)) == 2
    world.slurm.start(job := world.slurm.submitted()[0][2].job_id)
    world.slurm.finish(job)
    await world.turn(2)
    assert not staged.exists()
    assert len(await sealed_of(world)) == 1


async def test_a_parameter_may_refer_to_a_named_secret(world: Any, ask: Ask) -> None:
    await keep(world, "hub")
    session = await ask("login", parameters={"token": {"secret": "hub"}})
    assert dict(session.plan.secrets) == {"HUB_TOKEN": "secret:hub"}
    assert await secrets.given(world.gateway, session.id) == {"HUB_TOKEN": VALUE}
    with pytest.raises(ParameterInvalid, match="only secrets"):
        await ask("count", parameters={"to": {"secret": "hub"}})


async def test_a_missing_secret_is_told_before_anything_is_kept_or_sent(world: Any, ask: Ask) -> None:
    for wanted in ({"recipe": "named"}, {"recipe": "login", "parameters": {"token": {"secret": "hub"}}}):
        with pytest.raises(SecretNotFound, match="'hub'") as told:
            await ask(**wanted)
        assert "sluice secret set hub" in told.value.hint
    await world.turn()
    assert world.slurm.submitted() == []
    assert await sealed_of(world) == []


async def test_ones_own_secret_comes_before_the_projects(world: Any, ask: Ask) -> None:
    manager = world.caller.model_copy(update={"admin": True})
    request = SecretRequest(value=SecretStr("the project's"))
    await secrets.put(world.gateway, manager, "hub", request, "default")
    first = await ask("named")
    await keep(world, "hub", "ann's")
    second = await ask("named")
    assert await secrets.given(world.gateway, first.id) == {"HF_TOKEN": "the project's"}
    assert await secrets.given(world.gateway, second.id) == {"HF_TOKEN": "ann's"}
    held = world.caller.model_copy(update={"project": "default"})
    assert (await secrets.resolve(world.gateway, held, "default", {"hub": True})).values == {"hub": "the project's"}


async def test_without_files_the_agent_is_given_them_on_demand_and_after_each_requeue(world: Any, ask: Ask) -> None:
    (world.home / "sessions").write_text("no folder, so nothing can be staged")
    session = await ask("login", parameters={"token": VALUE})
    await world.turn()
    job_id = world.slurm.submitted()[0][2].job_id
    for endpoint in (FIRST, SECOND):
        world.slurm.start(job_id)
        await world.turn()
        world.slurm.announce(job_id, says(endpoint))
        await world.turn()
        now = await sessions.get(world.gateway, world.caller, session.id)
        assert not now.conditions["SecretsDelivered"].status or endpoint is SECOND
        world.agents.there.add(endpoint)
        world.agents.waiting.add(endpoint)
        await world.turn(2)
        assert world.agents.given[endpoint] == {"HUB_TOKEN": VALUE}
        now = await sessions.get(world.gateway, world.caller, session.id)
        assert now.conditions["SecretsDelivered"].status
        assert VALUE not in now.model_dump_json()
        del world.agents.given[endpoint]
        await world.turn(2)
        assert world.agents.given == {}, "it is given once"
        world.slurm.requeue(job_id)
        world.time.pass_(200)
        await world.turn()


async def test_a_push_whose_answer_was_lost_is_not_made_twice(world: Any, ask: Ask) -> None:
    (world.home / "sessions").write_text("no folder, so nothing can be staged")
    session = await ask("login", parameters={"token": VALUE})
    await world.turn()
    job_id = world.slurm.submitted()[0][2].job_id
    world.slurm.start(job_id)
    world.slurm.announce(job_id, says(FIRST))
    world.agents.there.add(FIRST)  # it waits no longer: it was given them, and nobody heard
    await world.turn(2)
    assert world.agents.given == {}
    now = await sessions.get(world.gateway, world.caller, session.id)
    assert (now.phase, now.conditions["SecretsDelivered"].status) == (Phase.READY, True)


async def test_the_same_key_with_another_value_is_the_same_request_and_no_digest_tells_it(world: Any, ask: Ask) -> None:
    first = await ask("login", key="k", parameters={"token": "one"})
    again = await ask("login", key="k", parameters={"token": "two"})
    assert first.id == again.id
    assert len(await sealed_of(world)) == 1


class BrokenOff(Exception):
    """The process is killed here."""


class Dying:
    """A keyring in a process that is killed after so many seals."""

    def __init__(self, ring: Keyring, seals: int) -> None:
        self._ring, self._left = ring, seals

    @property
    def ids(self) -> tuple[str, ...]:
        return self._ring.ids

    @property
    def current(self) -> str:
        return self._ring.current

    @property
    def in_file(self) -> bool:
        return self._ring.in_file

    def seal(self, text: str, about: str) -> str:
        if self._left == 0:
            raise BrokenOff
        self._left -= 1
        return self._ring.seal(text, about)

    def open_sealed(self, sealed: str, about: str) -> str:
        return self._ring.open_sealed(sealed, about)

    def add(self) -> str:
        return self._ring.add()

    def forget(self, unused: Any) -> None:
        self._ring.forget(unused)


@pytest.mark.parametrize("seals", range(4))
async def test_a_rotation_that_is_broken_off_goes_on_where_it_was(world: Any, ask: Ask, seals: int) -> None:
    for number in range(3):
        await keep(world, f"name-{number}", f"value-{number}")
    session = await ask("login", parameters={"token": VALUE})
    ring, first = Keyring(world.gateway.settings.state_dir / "secrets.keys"), world.gateway.vault.current
    with pytest.raises(BrokenOff):
        await secrets.rotate(world.gateway.db, Dying(ring, seals))
    second = ring.current
    assert second != first
    assert await readable(world, session)
    done = await secrets.rotate(world.gateway.db, ring)
    assert (done.begun, done.key, done.forgotten) == (False, second, ())
    assert await readable(world, session)
    assert await world.gateway.db.read(store.keys_in_use, [first, second]) == {second}
    last = await secrets.rotate(world.gateway.db, ring)
    assert (last.begun, last.sealed_again, last.forgotten) == (True, 4, (first,))
    assert await readable(world, session)
    assert ring.ids == (last.key, second)


async def readable(world: Any, session: Session) -> bool:
    names: Sequence[str] = [f"name-{number}" for number in range(3)]
    found = (await secrets.resolve(world.gateway, world.caller, "default", dict.fromkeys(names, True))).values
    given = await secrets.given(world.gateway, session.id)
    return found == {name: name.replace("name", "value") for name in names} and given == {"HUB_TOKEN": VALUE}
