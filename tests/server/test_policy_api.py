"""Policies through the API: what is in force, checks, forms, files looked at, health when they are broken."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.core import policies
from gateway.core.policies import Policies
from gateway.errors import Invalid, UserNotFound
from gateway.model.policy import (
    ACTIONS,
    KEPT_ACTIONS,
    PERSON_ACTIONS,
    PROJECT_ACTIONS,
    SESSION_ACTIONS,
    CheckRequest,
    FileCheck,
)
from gateway.model.project import NewProject
from gateway.model.token import TokenRequest
from gateway.model.user import NewUser
from gateway.sdk import AsyncSluice
from gateway.server.app import app
from gateway.web.serving import running
from tests.services import Site

LIMITS = '[limit.site]\nmaximum = {nodes = 2}\nparameters.to.maximum = 5\n[limit.chat]\nlock.alias = "small"\n'


@pytest.fixture
async def folder(site: Site, tmp_path: Path) -> Path:
    made = tmp_path / "policies"
    made.mkdir()
    (made / "site.toml").write_text(LIMITS)
    passed = iter(range(0, 10**9, int(policies.LOOK_EVERY)))
    chosen = Policies([made], moment=lambda: float(next(passed)))
    object.__setattr__(site.gateway, "policies", chosen)
    return made


@pytest.fixture
async def sluice(folder: Path, site: Site) -> AsyncIterator[AsyncSluice]:
    del folder
    async with running(app(site.gateway)) as url, AsyncSluice(url, site.token) as client:
        yield client


async def test_what_is_in_force_can_be_read(sluice: AsyncSluice) -> None:
    page = await sluice.policies.list()
    found = {view.id: view for view in page.items}
    assert found["roles-create"].effect == "permit"
    assert found["site.nodes"].limit == "site"
    assert "resource.nodes > 2" in found["site.nodes"].text
    assert page.problems == []
    assert "entity Session" in await sluice.policies.schema()


async def test_a_check_explains_and_does_nothing(sluice: AsyncSluice) -> None:
    for nodes, allowed, policy in ((2, True, "roles-create"), (3, False, "site.nodes")):
        request = {"request": {"recipe": "count", "resources": {"nodes": nodes}}}
        decision = await sluice.policies.check(CheckRequest.model_validate(request))
        assert (decision.allowed, decision.policy) == (allowed, policy)
    assert [session async for session in sluice.sessions.list()] == []


async def test_operators_check_as_anybody(sluice: AsyncSluice, site: Site) -> None:
    await sluice.users.create(NewUser(name="bob"))
    session = await site.create(name="mine")
    for action in ("read", "stop", "open"):
        asked = {"user": "bob", "action": action, "session": session.id}
        decision = await sluice.policies.check(CheckRequest.model_validate(asked))
        assert (decision.allowed, decision.by) == (False, "none")


KEPT = {"secret": "hub"}, {"volume": "data"}, {"volume": "data", "place": {"path": "corpus"}}


async def test_all_actions_can_be_asked_about(sluice: AsyncSluice, site: Site) -> None:
    """Each of them, as an administrator and as somebody who has no part in anything; nothing comes of it."""
    await sluice.users.create(NewUser(name="bob"))
    await sluice.projects.create(NewProject(name="physics"))
    token = (await sluice.tokens.create(TokenRequest(name="ci"))).id
    session = (await site.create(name="mine")).id
    create = {"request": {"recipe": "count", "project": "default"}}
    questions: list[tuple[str, dict[str, Any]]] = [("create", create)]
    questions += [(action, {"session": session}) for action in SESSION_ACTIONS if action != "create"]
    questions += [(action, {**kept, "project": "physics"}) for action in KEPT_ACTIONS for kept in KEPT[:1]]
    questions += [(action, {"on": "bob", "changes": ["admin"]}) for action in PERSON_ACTIONS]
    questions += [(action, {"on": "physics", "member": "bob", "role": "manager"}) for action in PROJECT_ACTIONS]
    questions += [("token.create", {"on": "admin", "days": 9}), ("token.revoke", {"on": token})]
    assert {action for action, _ in questions} == {*ACTIONS}
    for action, question in questions:
        asked = {"action": action, **question}
        mine = await sluice.policies.check(CheckRequest.model_validate(asked))
        assert mine.allowed, (asked, mine)
        if action != "create":  # who is in no project is told so before anything is decided
            theirs = await sluice.policies.check(CheckRequest.model_validate({**asked, "user": "bob"}))
            assert (theirs.allowed, bool(theirs.reasons)) == (False, True), (asked, theirs)
    for kept in KEPT:  # one's own
        for action in KEPT_ACTIONS:
            assert (await sluice.policies.check(CheckRequest.model_validate({"action": action, **kept}))).allowed
    assert [view.name for view in await sluice.users.list() if view.name not in {"admin", "bob"}] == []
    assert (await sluice.secrets.list(), await sluice.volumes.list()) == ([], [])


@pytest.mark.parametrize("action", ["stop", "set", "user.change", "project.change", "token.revoke", "create"])
async def test_a_question_that_says_nothing_is_told_what_is_missing(sluice: AsyncSluice, action: str) -> None:
    with pytest.raises((Invalid, UserNotFound), match="say "):
        await sluice.policies.check(CheckRequest.model_validate({"action": action}))


async def test_a_denial_is_a_403_that_names_the_policy(sluice: AsyncSluice, site: Site) -> None:
    async with httpx.AsyncClient(headers=site.auth, timeout=60) as client:
        body = {"recipe": "count", "resources": {"nodes": 3}}
        answer = await client.post(f"{sluice.url}/api/v1/sessions", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["policy"]) == (403, "policy_denied", "site.nodes")
    assert problem["hint"] == "Allowed: at most 2 nodes (you ask for 3 nodes)."


async def test_forms_show_limits_and_locks(sluice: AsyncSluice) -> None:
    schema = await sluice.recipes.parameters("count")
    assert schema["properties"]["to"]["maximum"] == 5
    assert schema["$defs"]["resources"]["properties"]["nodes"]["maximum"] == 2
    chat = await sluice.recipes.parameters("chat")
    assert chat["properties"]["alias"]["const"] == "small"


async def test_a_broken_change_is_told_and_the_old_set_stays(sluice: AsyncSluice, folder: Path) -> None:
    assert (await sluice.health()).checks["policies"] == "ok"
    (folder / "site.toml").write_text("[limit.site]\nmaximum = {nodes = 99, gpus = many}\n")
    health = await sluice.health()
    assert health.status == "degraded"
    assert f"{folder}/site.toml:2:" in health.checks["policies"]
    page = await sluice.policies.list()
    assert [problem.line for problem in page.problems] == [2]
    assert "site.nodes" in {view.id for view in page.items}


async def test_a_file_is_looked_at_without_coming_into_force(sluice: AsyncSluice) -> None:
    text = '@id("x")\n@allows("y")\nforbid (principal, action, resource)\nwhen { resource.nods > 1 };'
    problems = await sluice.policies.validate(FileCheck(name="x.cedar", text=text))
    assert [(problem.line, problem.column) for problem in problems] == [(4, 17)]
    assert "x" not in {view.id for view in (await sluice.policies.list()).items}
