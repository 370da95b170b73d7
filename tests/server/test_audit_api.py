"""The audit log over HTTP: every change and every refusal has its row, and everybody sees what is theirs."""

import asyncio
import json
from typing import Any

import pytest

from gateway.model.audit import AuditQuery, AuditRow, walk
from gateway.model.principal import LOCAL_ADMIN
from gateway.model.session import Phase
from gateway.sdk import AsyncSluice
from gateway.server.actions import ACTIONS
from gateway.store import audit
from tests.people import Somebody
from tests.town import Town


async def rows(town: Town, **query: Any) -> list[AuditRow]:
    found, _ = await town.site.gateway.db.read(audit.find, LOCAL_ADMIN, AuditQuery(limit=500, **query))
    return found


async def until_told(town: Town, **query: Any) -> AuditRow:
    """The row of a refusal, which is written beside the answer."""
    async with asyncio.timeout(60):
        while not (found := await rows(town, **query)):  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.02)
    return found[0]


#: Of every operation that changes something: method, path and body, asked by an administrator in this order.
CHANGES: dict[str, tuple[str, str, Any]] = {
    "createSession": ("POST", "/sessions", {"recipe": "count", "name": "mine"}),
    "stopSession": ("POST", "/sessions/mine/stop", None),
    "createProject": ("POST", "/projects", {"name": "gamma"}),
    "changeProject": ("PATCH", "/projects/gamma", {"title": "Third"}),
    "setMember": ("PUT", "/projects/gamma/members/ann", {"role": "viewer"}),
    "removeMember": ("DELETE", "/projects/gamma/members/ann", None),
    "archiveProject": ("PUT", "/projects/gamma/state", {"state": "archived"}),
    "createUser": ("POST", "/users", {"name": "new"}),
    "changeUser": ("PATCH", "/users/new", {"operator": True}),
    "removeUser": ("DELETE", "/users/new", None),
    "takeOn": ("POST", "/users/dee/onboarding", {"project": "beta"}),
    "seeOff": ("POST", "/users/dee/offboarding", {}),
    "setSecret": ("PUT", "/secrets/hub?project=beta", {"value": "hunter2"}),
    "removeSecret": ("DELETE", "/secrets/hub?project=beta", None),
    "setVolume": ("PUT", "/volumes/data", {"path": "corpus"}),
    "removeVolume": ("DELETE", "/volumes/data", None),
    "createToken": ("POST", "/tokens", {"name": "ci"}),
    "revokeToken": ("DELETE", "/tokens/ci", None),
}
#: These need more than one request; they have tests of their own.
SEVERAL_JOBS: dict[str, Any] = {
    "scaleSession": {"min": 2, "max": 3},
    "extendSession": {"seconds": 3600},
    "updateSession": {"parameters": {"alias": "other"}},
    "resumeSession": None,
}
TASKS = {"createTask", "cancelTask", "deleteTask"}
ELSEWHERE = {"deleteSession", "openSession", "signIn", "signInByMunge", *SEVERAL_JOBS, *TASKS}


async def test_every_change_has_a_row_with_who_and_through_what(town: Town) -> None:
    assert {*CHANGES, *ELSEWHERE} == {*ACTIONS}
    admin = Somebody("admin", town.site.token, "")
    for operation, (method, path, body) in CHANGES.items():
        wanted = ACTIONS[operation][0]
        before = (await town.site.gateway.db.read(audit.head)).id
        answer = await town.http.request(
            method, f"/api/v1{path}", headers={**admin.auth, "X-Request-Id": operation}, json=body
        )
        assert answer.is_success, (operation, answer.text)
        told = [row for row in await rows(town, action=wanted) if row.id > before]
        assert [(row.who, row.decision, row.outcome) for row in told] == [("admin", "allow", "done")], operation
        assert (told[0].request_id, told[0].origin) == (operation, "api")
        assert told[0].policy in town.site.gateway.policies.current.rules, "a policy decided, and the row names it"


#: What each person may not do, asked in this order, and the shipped policy that the denial and its row name.
DENIED = [
    ("ann", "POST", "/users", {"name": "x"}, "roles-service-accounts"),
    ("may", "PATCH", "/projects/alpha", {"shares": []}, "roles-shares"),
    ("ann", "PUT", "/projects/alpha/members/ann", {"role": "manager"}, "roles-managers"),
    ("vic", "DELETE", "/projects/alpha/members/ann", None, "roles-managers"),
    ("may", "PUT", "/projects/alpha/state", {"state": "archived"}, "roles-projects"),
    ("ola", "PATCH", "/users/ann", {"admin": True}, "roles-administrators"),
    ("ola", "PATCH", "/users/admin", {"title": "x"}, "roles-administrators"),
    ("ola", "POST", "/tokens", {"name": "x", "user": "ann"}, "roles-own-tokens"),
    ("ann", "PATCH", "/users/ann", {"unix": [{"cluster": "c", "name": "may"}]}, "roles-unix-users"),
    ("ann", "POST", "/users/dee/onboarding", {"project": "alpha"}, "roles-users"),
    ("ann", "POST", "/users/may/offboarding", {}, "roles-users"),
]


@pytest.mark.parametrize(("who", "method", "path", "body", "policy"), DENIED)
async def test_a_denial_names_the_policy_in_answer_and_row(
    town: Town, who: str, method: str, path: str, body: Any, policy: str
) -> None:
    answer = await town.ask(who, method, f"/api/v1{path}", body)
    said = answer.json()
    assert (answer.status_code, said["code"]) == (403, "policy_denied"), said
    assert policy in {one["policy"] for one in said["policies"]}
    assert said["hint"].startswith("Allowed: ")
    told = await until_told(town, who=who, decision="deny")
    assert told.policy == said["policy"]


async def test_what_is_asked_of_a_session_that_runs_has_a_row(town: Town) -> None:
    session = await town.start("ann", recipe="chat", project="alpha")
    base = f"/api/v1/sessions/{session['id']}"
    for operation, body in SEVERAL_JOBS.items():
        if operation == "resumeSession":
            await town.ask("ann", "POST", f"{base}/stop")
            await town.site.reaches(session["id"], Phase.STOPPED)
        action = ACTIONS[operation][0]
        path = f"{base}/{action.partition('.')[2]}"
        assert await town.status("ben", "POST", path, body) == 404
        assert await town.status("vic", "POST", path, body) == 403
        answer = await town.ask("ann", "POST", path, body)
        assert answer.is_success, (operation, answer.text)
        (told,) = await rows(town, action=action, decision="allow")
        assert (told.who, told.object, told.outcome) == ("ann", session["id"], "done")


async def test_deleting_a_session_has_a_row(town: Town) -> None:
    session = await town.start("ann")
    await town.ask("ann", "POST", f"/api/v1/sessions/{session['id']}/stop")
    await town.site.until(lambda: _ended(town, session["id"]), "it ended")
    assert await town.status("ann", "DELETE", f"/api/v1/sessions/{session['id']}") == 204
    told = (await rows(town, session=session["id"]))[::-1]
    assert [row.action for row in told if row.who == "ann"] == ["session.create", "session.stop", "session.delete"]
    assert told[0].token == town.people["ann"].token_id
    system = {row.action for row in told if row.who == "system"}
    assert system <= {"job.submit", "job.cancel"}
    assert all(row.job_id for row in told if row.action == "job.submit")


async def _ended(town: Town, ref: str) -> bool:
    return (await town.site.get(ref)).phase.ended


#: Of every change: how somebody asks for it who may not.
REFUSED = [
    ("vic", "POST", "/sessions", {"recipe": "count", "project": "alpha"}, "session.create", "deny"),
    ("vic", "POST", "/sessions?dry_run=true", {"recipe": "count", "project": "alpha"}, "session.create", "deny"),
    ("vic", "POST", "/sessions/{session}/stop", None, "session.stop", "deny"),
    ("ben", "POST", "/sessions/{session}/stop", None, "session.stop", "refuse"),
    ("ann", "POST", "/projects", {"name": "x"}, "project.create", "deny"),
    ("ann", "PUT", "/projects/alpha/members/ann", {"role": "manager"}, "member.set", "deny"),
    ("ann", "POST", "/users", {"name": "x"}, "user.create", "deny"),
    ("ann", "POST", "/users/x/onboarding", {"project": "alpha"}, "user.take_on", "deny"),
    ("ann", "POST", "/tokens", {"name": "x", "user": "ben"}, "token.create", "refuse"),
    ("ann", "POST", "/sessions", {"recipe": "nope", "project": "alpha"}, "session.create", "refuse"),
    ("ann", "POST", "/sessions", {"wrong": "hunter2"}, "session.create", "refuse"),
]


@pytest.mark.parametrize(("who", "method", "path", "body", "action", "decision"), REFUSED)
async def test_every_refusal_has_a_row(
    town: Town, who: str, method: str, path: str, body: Any, action: str, decision: str
) -> None:
    session = (await town.start("ann", project="alpha"))["id"]
    answer = await town.ask(who, method, f"/api/v1{path.format(session=session)}", body)
    assert answer.is_client_error, answer.text
    row = await until_told(town, who=who, action=action, decision=decision)
    assert row.outcome == answer.json()["code"]
    assert row.request_id == answer.headers["x-request-id"]
    assert row.token == town.people[who].token_id
    assert "hunter2" not in row.model_dump_json()
    if "{session}" in path:
        assert row.object == session


async def test_a_token_that_is_not_good_for_it_leaves_a_row(town: Town) -> None:
    made = await town.ask("ann", "POST", "/api/v1/tokens", {"name": "ro", "scopes": ["sessions:read"]})
    reader = Somebody("ann", made.json()["token"], made.json()["id"])
    assert await town.status(reader, "POST", "/api/v1/sessions", {"recipe": "count"}) == 403
    row = await until_told(town, action="session.create", decision="deny")
    assert (row.who, row.token, row.outcome) == ("ann", reader.token_id, "forbidden")


async def test_a_denial_on_the_data_plane_leaves_a_row(town: Town) -> None:
    made = await town.ask("ann", "POST", "/api/v1/tokens", {"name": "ro", "scopes": ["sessions:read"]})
    reader = Somebody("ann", made.json()["token"], made.json()["id"])
    assert await town.status(reader, "GET", "/v1/models") == 403
    row = await until_told(town, action="GET /v1/models")
    assert (row.who, row.token, row.decision, row.object) == ("ann", reader.token_id, "deny", "/v1/models")


async def test_wrong_tokens_leave_few_rows_and_no_token(town: Town) -> None:
    wrong = Somebody("x", "sluice_wrong_secret", "")
    for _ in range(20):
        assert await town.status(wrong, "GET", "/api/v1/sessions") == 401
    row = await until_told(town, action="authenticate")
    assert (row.who, row.kind, row.decision, row.outcome) == ("", "nobody", "deny", "unauthenticated")
    assert row.details["from"] == "127.0.0.1"
    assert len(await rows(town, action="authenticate")) == 1
    whole = [one.model_dump_json() for one in await rows(town)]
    secrets = [wrong.token, town.site.token, *(person.token for person in town.people.values())]
    assert [secret for secret in secrets for text in whole if secret in text] == []


async def test_who_sees_which_rows_and_who_the_chain(town: Town) -> None:
    await town.start("ann")
    mine = (await town.ask("ann", "GET", "/api/v1/audit")).json()["items"]
    assert {row["who"] for row in mine} == {"ann"}
    assert (await town.ask("ben", "GET", "/api/v1/audit?who=ann")).json()["items"] == []
    assert {row["who"] for row in (await town.ask("ola", "GET", "/api/v1/audit?limit=500")).json()["items"]} > {"ann"}
    assert await town.status("ann", "GET", "/api/v1/audit/head") == 403
    head = (await town.ask("ola", "GET", "/api/v1/audit/head")).json()
    export = await town.ask("ola", "GET", "/api/v1/audit/export")
    assert export.headers["content-type"] == "application/x-ndjson"
    assert walk([json.loads(line) for line in export.text.splitlines()], expect=head["hash"]).id >= head["id"]


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00%2B10:00", "9999-12-31T23:59:59-10:00", "nonsense"])
async def test_a_moment_that_is_none_is_refused(town: Town, moment: str) -> None:
    for word in ("since", "until"):
        assert await town.status("ola", "GET", f"/api/v1/audit?{word}={moment}") == 422


async def test_the_sdk_lists_exports_and_verifies(town: Town) -> None:
    await town.start("ann")
    async with AsyncSluice(str(town.http.base_url), town.people["ola"].token) as sdk:
        head = await sdk.audit.head()
        listed = [row.id async for row in sdk.audit.list(page_size=3)]
        exported = [row async for row in sdk.audit.export(who="ann", action="session.create")]
        verified = await sdk.audit.verify(head.hash)
    assert listed == sorted(listed, reverse=True)
    assert [row["object_kind"] for row in exported] == ["session"]
    assert verified.id >= head.id
