"""Tokens as their holders meet them: named, shown once, kept as digests, and with the time of their last use."""

import dataclasses
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, MetaData, select

from gateway.identity.opening import open_callers
from gateway.model.token import TokenView
from gateway.store import tokens as store
from tests.people import a_token, principal
from tests.town import Town
from tests.waiting import until_so


async def the_view(town: Town, token_id: str) -> TokenView:
    return await town.site.gateway.db.read(store.get, await principal(town.site, "ann"), token_id)


async def test_a_token_has_a_name_and_is_shown_once(town: Town) -> None:
    asked = {"name": "nightly", "scopes": ["sessions:read"], "days": 2}
    made = (await town.ask("ann", "POST", "/api/v1/tokens", asked)).json()
    secret = made["token"].removeprefix(f"sluice_{made['id']}_")
    assert (made["name"], made["scopes"], made["last_used_at"]) == ("nightly", ["sessions:read"], None)
    assert len(secret) == 43
    for path in ("/api/v1/tokens", "/api/v1/tokens?revoked=true", "/api/v1/audit", "/api/v1/me"):
        told = (await town.ask("ann", "GET", path)).text
        assert secret not in told, path
        assert hashlib.sha256(secret.encode()).hexdigest() not in told, path
    listed = (await town.ask("ann", "GET", "/api/v1/tokens")).json()["items"]
    assert [one["name"] for one in listed if one["id"] == made["id"]] == ["nightly"]
    assert all("token" not in one for one in listed)
    assert made["token"] not in (await town.ask("ann", "DELETE", "/api/v1/tokens/nightly")).text, (
        "nor when it is revoked"
    )
    for nameless in ({}, {"name": ""}, {"name": "x" * 64}):
        assert await town.status("ann", "POST", "/api/v1/tokens", nameless) == 422


async def test_the_database_and_its_files_hold_a_digest_and_nothing_else(town: Town, tmp_path: Path) -> None:
    made = await a_token(town.site, "ann", "sessions:read")
    assert await town.status(made, "GET", "/api/v1/sessions") == 200
    secret = made.token.removeprefix(f"sluice_{made.token_id}_")
    digest = hashlib.sha256(secret.encode()).hexdigest()

    def rows(connection: Connection) -> str:
        found = MetaData()
        found.reflect(connection)
        return str([tuple(row) for table in found.tables.values() for row in connection.execute(select(table))])

    held = await town.site.gateway.db.read(rows)
    assert digest in held
    assert made.token_id in held
    assert secret not in held
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert any(made.token_id.encode() in path.read_bytes() for path in files), "it is looked for where it would be"
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


async def test_when_a_token_was_used_is_kept_and_shown_and_not_at_each_request(town: Town) -> None:
    made = await a_token(town.site, "ann", "sessions:read")
    assert (await the_view(town, made.token_id)).last_used_at is None
    assert await town.status(made, "GET", "/api/v1/sessions") == 200
    first = (
        await until_so(lambda: the_view(town, made.token_id), lambda view: view.last_used_at is not None)
    ).last_used_at
    assert first is not None
    assert abs(datetime.now(UTC) - first) < timedelta(minutes=10)
    for _ in range(5):
        assert await town.status(made, "GET", "/api/v1/sessions") == 200
    await a_token(town.site, "ann")  # a write: whatever was to be written before it is
    listed = (await town.ask("ann", "GET", "/api/v1/tokens")).json()["items"]
    assert [TokenView.model_validate(one).last_used_at for one in listed if one["id"] == made.token_id] == [first]


async def test_it_is_kept_to_the_minute(town: Town) -> None:
    made, began = await a_token(town.site, "ann", "sessions:read"), datetime.now(UTC).replace(microsecond=0)
    now = [began]
    callers = open_callers(dataclasses.replace(town.site.gateway, clock=lambda: now[0]))

    async def used() -> datetime | None:
        await callers.authenticate(made.token)
        await a_token(town.site, "ben")  # a write: whatever was to be written before it is
        return (await the_view(town, made.token_id)).last_used_at

    assert await used() == began
    now[0] = began + timedelta(seconds=59)
    assert await used() == began
    now[0] = later = began + timedelta(seconds=61)
    assert await used() == later
