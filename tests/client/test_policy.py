"""Policies on the data plane: who may ask a model and open pages, at once after a change, told and written down."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gateway.core import openings, projects, sessions, users
from gateway.core.policies import Policies
from gateway.core.verdicts import Verdicts
from gateway.errors import PolicyDenied
from gateway.model.api import SessionRequest
from gateway.model.audit import AuditQuery, AuditRow
from gateway.model.principal import LOCAL_ADMIN
from gateway.model.project import ProjectRequest
from gateway.model.session import Phase, Session
from gateway.model.user import UserRequest
from gateway.store import audit
from tests.client.test_openai import Model
from tests.client.test_sessions import echo
from tests.people import Somebody, a_person, a_project, principal
from tests.waiting import until_so

ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def a_policy(name: str, action: str, condition: str) -> str:
    head = f'@id("{name}")\n@allows("what {name} allows")\n'
    return f'{head}forbid (principal, action == Action::"{action}", resource)\nwhen {{ {condition} }};\n'


async def a_session(plane: Any, who: Somebody, service: Any, recipe: str, **values: Any) -> Session:
    """A ready session of somebody's."""
    site, endpoint = plane.site, await plane.node(service)
    request = SessionRequest.model_validate({"recipe": recipe, **values})
    session, _ = await sessions.create(site.gateway, await principal(site, who.name), request)
    job_id = await site.job_id(session.id)
    site.slurm.start(job_id)
    site.slurm.announce(job_id, f"sluice/1 ready tcp={endpoint.host}:{endpoint.port} sha256={endpoint.fingerprint}")
    reached: Session = await site.reaches(session.id, Phase.READY)
    return reached


async def until_status(ask: Callable[[], Any], status: int) -> httpx.Response:
    """Policies are looked at once a second."""
    found: httpx.Response = await until_so(ask, lambda answer: answer.status_code == status)
    return found


async def until_told(plane: Any, policy: str) -> AuditRow:
    async def told() -> list[AuditRow]:
        rows, _ = await plane.site.gateway.db.read(audit.find, LOCAL_ADMIN, AuditQuery(limit=500, decision="deny"))
        return [row for row in rows if row.policy == policy]

    return (await until_so(told, what=f"the policy {policy} is told"))[0]


@pytest.fixture
async def people(plane: Any) -> tuple[Somebody, Somebody]:
    """Two members of a project; the first is of the staff."""
    await a_project(plane.site, "physics", shares=[{"cluster": "c", "account": "research"}])
    ann = await a_person(plane.site, "ann", {"physics": "member"})
    bob = await a_person(plane.site, "bob", {"physics": "member"})
    return ann, bob


async def test_a_policy_forbids_a_call_at_once_names_itself_and_is_written_down(
    plane: Any, people: tuple[Somebody, Somebody]
) -> None:
    ann, bob = people
    session = await a_session(plane, ann, Model(), "chat", name="model")

    async def ask(who: Somebody) -> httpx.Response:
        found: httpx.Response = await plane.http.post("/v1/chat/completions", json=ASKED, headers=who.auth)
        return found

    assert [(await ask(who)).status_code for who in people] == [200, 200]
    file = plane.policies / "site.cedar"
    file.write_text(a_policy("own-models", "call", "principal != resource.owner"))
    denied = await until_status(lambda: ask(bob), 403)
    assert (await ask(ann)).status_code == 200
    said = denied.json()["error"]
    assert "forbidden by the policy own-models" in said["message"]
    assert "what own-models allows" in said["message"]
    models = [(await plane.http.get("/v1/models", headers=who.auth)).json()["data"] for who in people]
    assert [len(found) for found in models] == [1, 0]
    by_id = await plane.http.post("/v1/chat/completions", json={**ASKED, "model": session.id}, headers=bob.auth)
    assert by_id.status_code == 403
    row = await until_told(plane, "own-models")
    assert (row.who, row.outcome, row.action) == ("bob", "policy_denied", "POST /v1/chat/completions")
    file.unlink()
    await until_status(lambda: ask(bob), 200)


async def test_the_way_in_which_somebody_asks_counts_also_when_they_are_known(
    plane: Any, people: tuple[Somebody, Somebody]
) -> None:
    ann, _ = people
    await a_session(plane, ann, Model(), "chat", name="model")
    (plane.policies / "site.cedar").write_text(a_policy("no-terminals", "call", 'context.origin == "cli"'))

    async def ask(**headers: str) -> httpx.Response:
        found: httpx.Response = await plane.http.post("/v1/chat/completions", json=ASKED, headers=ann.auth | headers)
        return found

    by_cli = {"X-Sluice-Origin": "cli"}
    await until_status(lambda: ask(**by_cli), 403)
    for _ in range(3):
        assert [(await ask(**more)).status_code for more in ({}, by_cli)] == [200, 403]


async def test_of_several_servers_those_answer_that_the_policies_leave(
    plane: Any, people: tuple[Somebody, Somebody]
) -> None:
    ann, bob = people
    mine, theirs = Model(), Model()
    await a_session(plane, ann, theirs, "chat", name="theirs")
    await a_session(plane, bob, mine, "chat", name="mine")
    (plane.policies / "site.cedar").write_text(a_policy("own-models", "call", "principal != resource.owner"))

    async def ask() -> httpx.Response:
        asked = {**ASKED, "model": "theirs"}
        found: httpx.Response = await plane.http.post("/v1/chat/completions", json=asked, headers=ann.auth)
        return found

    await until_served_by(plane, bob, 1)
    assert (await ask()).status_code == 200
    before = len(theirs.asked)
    for _ in range(8):
        assert (await plane.http.post("/v1/chat/completions", json=ASKED, headers=bob.auth)).status_code == 200
    assert len(theirs.asked) == before


async def until_served_by(plane: Any, who: Somebody, number: int) -> None:
    """So many sessions are offered to somebody for the one model there is."""

    async def offered() -> int:
        [model] = (await plane.http.get("/v1/models", headers=who.auth)).json()["data"]
        return len(model["sessions"])

    await until_so(offered, lambda now: now == number)


async def test_labels_of_the_project_count_as_they_are_now(plane: Any, people: tuple[Somebody, Somebody]) -> None:
    ann, _ = people
    await a_session(plane, ann, Model(), "chat")
    closed = 'resource.project.hasTag("state") && resource.project.getTag("state") == "closed"'
    (plane.policies / "site.cedar").write_text(a_policy("closed", "call", closed))

    def ask() -> Any:
        return plane.http.post("/v1/chat/completions", json=ASKED, headers=ann.auth)

    assert (await ask()).status_code == 200
    for state, status in (("closed", 403), ("open", 200)):
        request = ProjectRequest(labels={"state": state})
        await projects.change(plane.site.gateway, LOCAL_ADMIN, "physics", request)
        await until_status(ask, status)


async def test_pages_are_opened_as_the_policies_say_by_token_and_by_cookie(
    plane: Any, people: tuple[Somebody, Somebody]
) -> None:
    """Who came by a link is known with groups and all: a policy about groups holds for them, too."""
    ann, _ = people
    gateway = plane.site.gateway
    await a_session(plane, ann, echo, "app", name="web")
    link = (await openings.make(gateway, await principal(plane.site, "ann"), "web")).url
    async with httpx.AsyncClient(base_url=plane.url, timeout=60) as browser:
        cookie = (await browser.get(link)).headers["set-cookie"].split(";")[0]

        def by_cookie() -> Any:
            return browser.get("/s/web/x", headers={"Cookie": cookie})

        def by_token() -> Any:
            return browser.get("/s/web/x", headers=ann.auth)

        browser.cookies.clear()
        assert ((await by_cookie()).status_code, (await by_token()).status_code) == (200, 200)
        file = plane.policies / "site.cedar"
        file.write_text(a_policy("members-only", "open", 'principal in Team::"physics/member"'))
        for ask in (by_cookie, by_token):
            denied = await until_status(ask, 403)
            assert denied.json()["policy"] == "members-only"
        assert (await until_told(plane, "members-only")).who == "ann"
        with pytest.raises(PolicyDenied, match="members-only"):
            await openings.make(gateway, await principal(plane.site, "ann"), "web")
        file.unlink()
        for ask in (by_cookie, by_token):
            await until_status(ask, 200)
        await users.change(gateway, LOCAL_ADMIN, "ann", UserRequest(state="disabled"))
        for ask in (by_cookie, by_token):
            await until_status(ask, 403)


async def test_a_decision_is_made_once(plane: Any, people: tuple[Somebody, Somebody]) -> None:
    """As long as caller, session, policies and the quarter of an hour are the same."""
    ann, _ = people
    session = await a_session(plane, ann, Model(), "chat")
    await plane.data.routes.refresh()
    [route] = plane.data.routes.visible(await principal(plane.site, "ann"))
    now = [plane.site.gateway.clock().replace(minute=0, second=0)]
    verdicts = Verdicts(Policies(), lambda: now[0], "UTC")
    caller = await principal(plane.site, "ann")
    first = verdicts.of(caller, "call", route.subject)
    assert first.allowed
    assert verdicts.of(await principal(plane.site, "ann"), "call", route.subject) is first
    assert verdicts.of(caller.model_copy(update={"origin": "kubernetes"}), "call", route.subject) is not first
    assert verdicts.of(caller, "call", route.subject.model_copy()) is not first
    again, era = verdicts.of(caller, "call", route.subject), verdicts.era()
    now[0] = now[0].replace(minute=14, second=59)
    assert verdicts.era() is era
    now[0] = now[0].replace(minute=15, second=0)
    assert verdicts.of(caller, "call", route.subject) is not again
    assert verdicts.era() is not era
    assert session.id == route.id
