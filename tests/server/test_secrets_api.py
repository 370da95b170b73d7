"""Named secrets over HTTP: who may use, set and remove which, and that no answer, log or database holds a value."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.identity.opening import open_callers
from gateway.server.app import part
from gateway.web.app import Web
from gateway.web.serving import running
from tests.people import Somebody, a_person, a_project, a_token
from tests.services import Site, a_site

VALUE = "hf_ThisMustNotBeSeen"
OWN, PROJECT = "/api/v1/secrets/hub", "/api/v1/secrets/hub?project=alpha"
RECIPE = (
    'name: named\nversion: "1"\nkind: batch\nimage: base\ncommand: [run]\n'
    "parameters:\n  token: {type: secret, required: false, pattern: 'hf_.*'}\n"
    "secrets:\n  HF_TOKEN: {secret: hub}\n  OTHER: {parameter: token}\n"
)


class Town:
    def __init__(self, site: Site, http: httpx.AsyncClient, people: dict[str, Somebody]) -> None:
        self.site, self.http, self.people = site, http, people

    async def ask(self, who: str | Somebody, method: str, path: str, body: Any = None) -> httpx.Response:
        auth = (self.people[who] if isinstance(who, str) else who).auth
        return await self.http.request(method, path, headers=auth, json=body)

    async def put(self, who: str | Somebody, path: str, value: Any = VALUE) -> int:
        return (await self.ask(who, "PUT", path, {"value": value})).status_code

    async def names(self, who: str | Somebody) -> set[tuple[str, str | None]]:
        items = (await self.ask(who, "GET", "/api/v1/secrets")).json()["items"]
        return {(one["name"], one["project"]) for one in items}


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(a_site(tmp_path))
        (site.recipes / "named.yaml").write_text(RECIPE)
        web = Web([part(site.gateway)], open_callers(site.gateway))
        url = await stack.enter_async_context(running(web))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60))
        share = {"cluster": "c", "account": "research", "qos": ["normal"], "partitions": ["cpu", "gpu"]}
        await a_project(site, "alpha", shares=[share])
        await a_project(site, "beta", shares=[share])
        roles = {"ann": "member", "may": "manager", "vic": "viewer"}
        people = {name: await a_person(site, name, {"alpha": role}) for name, role in roles.items()}
        people |= {"ben": await a_person(site, "ben", {"beta": "manager"})}
        people |= {"ola": await a_person(site, "ola", {}, operator=True)}
        yield Town(site, http, people)


#: Of a secret of ann's own, and of one of the project alpha: what each one is answered.
TABLE = {
    #      own: get set-anew | project: get set remove
    "ann": (200, 200, 403, 403),
    "may": (404, 200, 200, 204),
    "vic": (404, 404, 403, 404),
    "ben": (404, 404, 404, 404),
    "ola": (404, 404, 403, 404),
}


@pytest.mark.parametrize("who", TABLE)
async def test_who_may_do_what(town: Town, who: str) -> None:
    assert await town.put("ann", OWN) == 200
    assert await town.put("may", PROJECT) == 200
    did = (
        (await town.ask(who, "GET", OWN)).status_code,
        (await town.ask(who, "GET", PROJECT)).status_code,
        await town.put(who, PROJECT, "another"),
        (await town.ask(who, "DELETE", PROJECT)).status_code,
    )
    assert did == TABLE[who]
    if who != "ann":
        assert (await town.ask(who, "DELETE", OWN)).status_code == 404
        assert ("hub", None) in await town.names("ann")


async def test_a_token_reaches_no_further_than_it_is_held(town: Town) -> None:
    await town.put("ann", OWN)
    await town.put("may", PROJECT)
    assert await town.names("ann") == {("hub", None), ("hub", "alpha")}
    held = await a_token(town.site, "ann", project="alpha")
    assert await town.names(held) == {("hub", "alpha")}
    assert await town.put(held, OWN) == 403
    reading = await a_token(town.site, "ann", "sessions:read", "sessions:write")
    assert await town.put(reading, OWN) == 403


async def test_a_session_uses_the_secrets_of_its_owner_and_its_project_alone(town: Town) -> None:
    request = {"recipe": "named"}
    missing = await town.ask("ann", "POST", "/api/v1/sessions", request)
    assert (missing.status_code, missing.json()["code"]) == (404, "secret_not_found")
    await town.put("may", PROJECT)
    assert (await town.ask("ann", "POST", "/api/v1/sessions", request)).status_code == 201
    assert (await town.ask("ben", "POST", "/api/v1/sessions", request)).status_code == 404
    assert (await town.ask("ben", "POST", "/api/v1/sessions", {**request, "project": "alpha"})).status_code == 404
    dry = await town.ask("ben", "POST", "/api/v1/sessions?dry_run=true", request)
    assert dry.status_code == 404


async def test_a_value_is_set_anew_and_who_leaves_takes_theirs_along(town: Town) -> None:
    first = (await town.ask("ann", "PUT", OWN, {"value": "one"})).json()
    second = (await town.ask("ann", "PUT", OWN, {"value": "two"})).json()
    assert second["created_at"] == first["created_at"]
    assert second["updated_at"] > first["updated_at"]
    assert (await town.ask("ola", "DELETE", "/api/v1/users/ann")).status_code == 200
    await town.put("may", PROJECT)
    assert (await town.ask("may", "GET", PROJECT)).status_code == 200
    used = await town.site.gateway.db.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM secrets").scalar_one())
    assert used == 1


@pytest.mark.parametrize(
    "body",
    [
        {"value": ""},
        {"value": VALUE + "\0"},
        {"value": VALUE * 5000},
        {"value": [VALUE]},
        {"value": VALUE, "more": VALUE},
        {"vale": VALUE},
        VALUE,
    ],
)
async def test_what_is_wrong_is_told_without_the_value(town: Town, body: Any) -> None:
    answer = await town.ask("ann", "PUT", OWN, body)
    assert (answer.status_code, VALUE in answer.text) == (422, False)


async def test_no_answer_log_or_row_holds_a_value(town: Town, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answers = []
    with capture_logs() as lines:
        for path, who in ((OWN, "ann"), (PROJECT, "may")):
            answers.append(await town.ask(who, "PUT", path, {"value": VALUE}))
        ask = {"recipe": "named", "parameters": {"token": VALUE}}
        made = await town.ask("ann", "POST", "/api/v1/sessions", ask)
        at = f"/api/v1/sessions/{made.json()['id']}"
        await town.site.job_id(made.json()["id"])
        wrong = {"recipe": "named", "parameters": {"token": "x" + VALUE}}
        answers += [made, await town.ask("ann", "POST", "/api/v1/sessions", wrong)]
        answers.append(await town.ask("ann", "POST", "/api/v1/sessions", {**ask, "parameters": VALUE}))
        answers.append(await town.ask("ann", "POST", "/api/v1/sessions", {**ask, "token": VALUE}))
        answers.append(await town.ask("ann", "POST", "/api/v1/sessions?dry_run=true", ask))
        for path in ("/api/v1/secrets", OWN, PROJECT, at, f"{at}/script", f"{at}/events?follow=false"):
            answers.append(await town.ask("ann", "GET", path))
    assert made.status_code == 201, made.text
    assert VALUE not in "".join(answer.text for answer in answers)
    assert VALUE not in "".join(map(repr, lines)) + caplog.text
    script, _, seen = town.site.slurm.submitted()[0]
    assert VALUE not in script.model_dump_json() + seen.model_dump_json()
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and "sessions" not in path.parts]
    assert any(path.name == "sluice.db" for path in kept)
    assert [path.name for path in kept if VALUE.encode() in path.read_bytes()] == []
