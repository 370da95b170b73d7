"""Marked secrets sent through every way in which the API can refuse: no answer, log, row, export or file holds one."""

import base64
import dataclasses
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.cli.services import parts_of
from gateway.core.context import Gateway
from gateway.identity.opening import open_callers
from gateway.settings import ServeSettings
from gateway.web.app import Web
from gateway.web.serving import running
from tests.people import Somebody, a_person, a_project, a_token
from tests.services import Site, a_site

MARK = "MARKED-SECRET-9f3k"
PASSWORD, TOKEN, COOKIE, VALUE, CODE = (f"{MARK}-{word}" for word in ("password", "token", "cookie", "value", "code"))
RECIPE = (
    'name: named\nversion: "1"\nkind: batch\nimage: base\ncommand: [run]\n'
    "parameters:\n  token: {type: secret, required: false, pattern: 'hf_.*'}\n  size: {type: integer, default: 1}\n"
    "secrets:\n  OTHER: {parameter: token}\n"
)
BASIC = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
#: What may be shown of oneself, wrongly.
SHOWN = (
    {"Authorization": f"Bearer {TOKEN}"},
    {"Authorization": f"Bearer sluice_{TOKEN}"},
    {"Authorization": f"Bearer sluice-{TOKEN}"},
    {"Authorization": f"Bearer munge.{TOKEN}.{TOKEN}"},
    {"Authorization": f"Bearer {TOKEN}.{TOKEN}.{TOKEN}"},
    {"Authorization": f"Basic {BASIC}"},
    {"Authorization": f"Digest {TOKEN}"},
    {"Cookie": f"__Host-sluice={COOKIE}"},
    {"Cookie": f"sluice-session={COOKIE}.{COOKIE}; __Host-sluice-sign-in={COOKIE}"},
)
#: Ways to be wrong about a value that is a secret: types, lengths, places, spellings, and text that is no JSON.
WRONG: tuple[Any, ...] = (
    {"value": VALUE * 5000},
    {"value": VALUE + "\0"},
    {"value": [VALUE]},
    {"value": {"secret": VALUE}},
    {"value": VALUE, "more": VALUE},
    {"vale": VALUE},
    [VALUE],
    VALUE,
    f'{{"value": "{VALUE}'.encode(),
    f'{{"value": "{VALUE}", }}'.encode(),
    b'{"value": "' + VALUE.encode() + b'\xff"}',
)
SESSIONS: tuple[Any, ...] = (
    {"recipe": "named", "parameters": {"token": VALUE}},
    {"recipe": "named", "parameters": {"token": [VALUE]}},
    {"recipe": "named", "parameters": {"token": {"secrets": VALUE}}},
    {"recipe": "named", "parameters": {"token": f"hf_{VALUE}", "size": "x"}},
    {"recipe": "named", "parameters": {"tokens": f"hf_{VALUE}"}},
    {"recipe": "nosuch", "parameters": {"token": f"hf_{VALUE}"}},
    {"recipe": "named", "parameters": {"token": f"hf_{VALUE}"}, "resources": {"nodes": "many"}},
    {"recipe": "named", "parameters": {"token": f"hf_{VALUE}"}, "project": "nosuch"},
    {"recipe": "named", "parameters": f"hf_{VALUE}"},
    {"recipe": "named", "token": f"hf_{VALUE}"},
    f'{{"recipe": "named", "parameters": {{"token": "{VALUE}'.encode(),
)


class Broken:
    """A vault with a fault of ours in it: its caller's frames hold the value when it fails."""

    def __init__(self, real: Any) -> None:
        self.current, self.ids, self.in_file = real.current, real.ids, real.in_file

    def seal(self, text: str, about: str) -> str:
        raise ZeroDivisionError(f"{len(text)} of {about}")

    open_sealed = seal

    def add(self) -> str:
        raise ZeroDivisionError

    def forget(self, keys: Any) -> None:
        raise ZeroDivisionError(len(keys))


@dataclass
class Place:
    site: Site
    http: httpx.AsyncClient
    people: dict[str, Somebody]
    paths: dict[tuple[str, str], str]
    answers: list[httpx.Response] = field(default_factory=list)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> int:
        given = {"content": body} if isinstance(body, bytes) else {} if body is None else {"json": body}
        answer = await self.http.request(method, path, headers=headers, **given)
        self.answers.append(answer)
        return answer.status_code


async def a_place(stack: AsyncExitStack, gateway: Gateway) -> httpx.AsyncClient:
    web = Web(parts_of("all", gateway), open_callers(gateway), ServeSettings(failed_sign_ins_per_minute=0))
    url = await stack.enter_async_context(running(web, grace=1))
    return await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60))


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    oidc = {"issuer": "http://127.0.0.1:9", "client_id": "sluice", "public_url": "http://127.0.0.1:9"}
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(a_site(tmp_path, identity={"oidc": oidc}))
        (site.recipes / "named.yaml").write_text(RECIPE)
        http = await a_place(stack, site.gateway)
        await a_project(site, "alpha", shares=[{"cluster": "c", "account": "research"}])
        people = {
            name: await a_person(site, name, {"alpha": role}) for name, role in (("ann", "member"), ("vic", "viewer"))
        }
        people["weak"] = await a_token(site, "ann", "sessions:read")
        found = (await http.get("/api/v1/openapi.json", headers=people["ann"].auth)).json()["paths"]
        paths = {
            (method.upper(), path): operation["operationId"]
            for path, operations in found.items()
            for method, operation in operations.items()
        }
        yield Place(site, http, people, paths)


async def unknown_callers(place: Place) -> None:
    """Every operation, and every place besides, by what is no token, no password and no cookie of ours."""
    besides = [("GET", path) for path in ("/", "/v1/models", "/s/web/", "/audit", "/metrics", "/inside/x/terminal")]
    for method, path in [*place.paths, *besides]:
        at = (
            path.format(ref=CODE, name="x", user="x", id="x")
            if "{" in path and method == "GET"
            else path.replace("{", "").replace("}", "")
        )
        for shown in SHOWN:
            status = await place.ask(
                method, at.replace(CODE, "x"), b"{" if method in {"POST", "PUT", "PATCH"} else None, **shown
            )
            assert status < 500 or status == 503, (method, at, shown)


async def wrong_values(place: Place) -> None:
    ann, statuses = place.people["ann"].auth, set()
    for who in (ann, place.people["vic"].auth, place.people["weak"].auth, {}):
        kind = {"Content-Type": "application/json"}
        for body in WRONG:
            for path in (
                "/secrets/hub",
                "/secrets/hub?project=alpha",
                "/secrets/hub?project=nosuch",
                f"/secrets/{'x' * 99}",
            ):
                statuses.add(await place.ask("PUT", f"/api/v1{path}", body, **who, **kind))
        for body in SESSIONS:
            for path in ("/sessions", "/sessions?dry_run=true"):
                statuses.add(await place.ask("POST", f"/api/v1{path}", body, **who, **kind))
        good = {"recipe": "named", "parameters": {"token": f"hf_{VALUE}"}}
        check = {"action": "create", "request": good}
        statuses.add(await place.ask("POST", "/api/v1/policies/check", check, **who))
        statuses.add(await place.ask("POST", "/api/v1/policies/check", {**check, "actio": VALUE}, **who))
        statuses.add(await place.ask("POST", "/api/v1/recipes/named/render", good, **who))
        for name in ("idem", "idem"):  # the second is in conflict
            more = {"Idempotency-Key": "k", "name": name}
            statuses.add(await place.ask("POST", "/api/v1/sessions", {**good, "name": "one"}, **who, **more))
        statuses.add(await place.ask("POST", "/api/v1/sessions", {**good, "name": "one"}, **who))
    statuses.add(await place.ask("PUT", "/api/v1/secrets/hub", {"value": VALUE * 60_000}, **ann))
    assert {401, 403, 404, 409, 413, 422} <= statuses, statuses


async def sign_ins(place: Place) -> None:
    cookie = {"Cookie": f"__Host-sluice-sign-in={COOKIE}"}
    for path in (
        f"/auth/callback?code={CODE}&state={CODE}",
        f"/auth/callback?error=x&state={CODE}",
        f"/auth/frontchannel?iss=x&sid={CODE}",
    ):
        await place.ask("GET", path, **cookie)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    await place.ask("POST", "/auth/backchannel", f"logout_token={TOKEN}.{TOKEN}.{TOKEN}".encode(), **form)
    await place.ask("POST", "/auth/logout", b"", **{"Cookie": f"__Host-sluice={COOKIE}", "X-CSRF-Token": TOKEN})
    for body in (
        {"id_token": TOKEN},
        {"id_token": f"{TOKEN}.{TOKEN}.{TOKEN}", "access_token": TOKEN},
        {"id_token": TOKEN * 2000},
        {"id_token": [TOKEN]},
        {"id_tokens": TOKEN},
    ):
        assert await place.ask("POST", "/api/v1/auth/session", body) >= 400
    for given in ({"credential": f"MUNGE:{TOKEN}:"}, {"credential": [TOKEN]}, {"credentials": TOKEN}):
        assert await place.ask("POST", "/api/v1/auth/munge", given) >= 400
    for path in (f"/s/web/?sluice-code={CODE}", f"/s/web?sluice-code={CODE}", f"/s/{'x' * 99}/?sluice-code={CODE}"):
        assert await place.ask("GET", path) >= 400


async def faults(place: Place, stack: AsyncExitStack) -> None:
    """A fault of ours, with values in the frames of those who call."""
    gateway = place.site.gateway
    http, place.http = place.http, await a_place(stack, dataclasses.replace(gateway, vault=Broken(gateway.vault)))
    ann = place.people["ann"].auth
    assert await place.ask("PUT", "/api/v1/secrets/hub", {"value": VALUE}, **ann) == 500
    good = {"recipe": "named", "parameters": {"token": f"hf_{VALUE}"}}
    assert await place.ask("POST", "/api/v1/sessions", {**good, "name": "two"}, **ann) == 500
    place.http = http


async def test_no_secret_is_told_anywhere(place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for quiet in ("httpx", "httpcore", "hypothesis"):  # what the test itself sends
        logging.getLogger(quiet).setLevel(logging.WARNING)
    async with AsyncExitStack() as stack:
        with capture_logs() as lines:
            await unknown_callers(place)
            await wrong_values(place)
            await sign_ins(place)
            await faults(place, stack)
            assert await place.ask("PUT", "/api/v1/secrets/kept", {"value": VALUE}, **place.people["ann"].auth) == 200
    assert len(place.answers) > 500
    told = [
        f"{answer.status_code} {answer.request.method} {answer.request.url.path}"
        for answer in place.answers
        if MARK in answer.text
    ]
    assert told == []
    headers = [str(answer.headers) for answer in place.answers if MARK in str(answer.headers)]
    assert headers == []
    assert [line for line in lines if MARK in repr(line)] == []
    assert [record for record in caplog.records if MARK in record.getMessage() + str(record.exc_text)] == []
    export = await place.http.get("/api/v1/audit/export", headers={"Authorization": f"Bearer {place.site.token}"})
    assert (export.text.count("\n") > 50, MARK in export.text) == (True, False)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "sluice.db" for path in kept)
    assert [path.name for path in kept if MARK.encode() in path.read_bytes()] == []
