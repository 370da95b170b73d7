"""Volumes over HTTP: whose they are, who mounts them, where they lie, and what policies say."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.core.policies import Policies
from gateway.model.audit import AuditQuery
from gateway.model.principal import LOCAL_ADMIN
from gateway.store import audit
from gateway.store import sessions as store
from tests.people import Somebody, a_token
from tests.town import Town, a_town

CLASSES = {
    "home": {"root": "~"},
    "scratch": {"root": "/scratch/{user}"},
    "archive": {"root": "/archive/{user}", "writable": False},
    "project": {"root": "/projects/{project}", "of": "project"},
}
SITE = """
@id("no-archive-in-physics")
@allows("volumes of other classes")
forbid (principal, action == Action::"use", resource is Volume)
when { resource.class == "archive" && principal in Team::"alpha/member" };

@id("no-tokens-called-root")
@allows("any other name")
forbid (principal, action == Action::"set", resource is Secret)
when { resource.name == "root" };

@id("old-secrets")
@allows("secrets of other names")
forbid (principal, action in [Action::"see", Action::"use"], resource is Secret)
when { resource.name like "old-*" };
"""


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "site.cedar").write_text(SITE)
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(
            a_town(tmp_path, policies=[tmp_path / "policies"], cluster={"volumes": CLASSES})
        )


async def mounts(town: Town, who: str | Somebody, **values: Any) -> list[dict[str, Any]]:
    answer = await town.ask(who, "POST", "/api/v1/sessions", {"recipe": "count", **values})
    assert answer.status_code == 201, answer.text
    session = await town.site.gateway.db.read(store.get, LOCAL_ADMIN, answer.json()["id"])
    return [mount.model_dump() for mount in session.plan.mounts]


async def test_ones_own_volume_is_mounted_below_the_root_of_its_class(town: Town) -> None:
    made = await town.ask("ann", "PUT", "/api/v1/volumes/runs", {"volume_class": "scratch", "path": "a/runs"})
    assert made.status_code == 200, made.text
    assert made.json()["cluster"] == "c"
    await town.ask("ann", "PUT", "/api/v1/volumes/old", {"volume_class": "archive"})
    found = (await town.ask("ann", "GET", "/api/v1/volumes")).json()["items"]
    assert [(one["name"], one["volume_class"], one["path"]) for one in found] == [
        ("old", "archive", "old"),
        ("runs", "scratch", "a/runs"),
    ]
    [mount] = await mounts(town, "ann", volumes=[{"name": "runs", "target": "/data"}])
    assert mount == {
        "source": "/scratch/ann/a/runs",
        "target": "/data",
        "writable": True,
        "volume": "runs",
        "volume_class": "scratch",
        "below": "/scratch/ann",
    }
    [mount] = await mounts(town, "ann", volumes=[{"name": "runs", "writable": False}])
    assert (mount["target"], mount["writable"]) == ("/volumes/runs", False)
    denied = await town.ask("ann", "POST", "/api/v1/sessions", {"recipe": "count", "volumes": [{"name": "old"}]})
    assert (denied.status_code, denied.json()["policy"]) == (403, "no-archive-in-physics")
    twice = [{"name": "runs"}, {"name": "runs"}]
    assert await town.status("ann", "POST", "/api/v1/sessions", {"recipe": "count", "volumes": twice}) == 422
    assert await town.status("ann", "DELETE", "/api/v1/volumes/runs") == 204
    missing = await town.ask("ann", "POST", "/api/v1/sessions", {"recipe": "count", "volumes": [{"name": "runs"}]})
    assert (missing.status_code, missing.json()["code"]) == (404, "volume_not_found")


async def test_a_projects_volume_is_its_managers_to_name_and_its_members_to_mount(town: Town) -> None:
    asked = {"volume_class": "project", "path": "shared"}
    path = "/api/v1/volumes/shared?project=alpha"
    for who, status in (("ann", 403), ("vic", 403), ("ben", 404), ("ola", 403), ("may", 200)):
        assert await town.status(who, "PUT", path, asked) == status, who
    for who, status in (("ann", 200), ("vic", 200), ("ben", 404)):
        assert await town.status(who, "GET", path) == status, who
    [mount] = await mounts(town, "ann", volumes=[{"name": "shared"}])
    assert (mount["source"], mount["below"]) == ("/projects/alpha/shared", "/projects/alpha")
    other = await town.ask("ben", "POST", "/api/v1/sessions", {"recipe": "count", "volumes": [{"name": "shared"}]})
    assert (other.status_code, "shared" in other.json()["title"]) == (404, False) or other.status_code in {403, 404}
    assert (await town.ask("ben", "GET", "/api/v1/volumes")).json()["items"] == []
    assert await town.status("ann", "DELETE", path) == 403
    assert await town.status("may", "DELETE", path) == 204


async def test_what_cannot_be_a_volume_is_refused(town: Town) -> None:
    for body in (
        {"volume_class": "nowhere"},
        {"volume_class": "project"},
        {"path": "../other"},
        {"path": "/etc"},
        {"path": "a/../../b"},
        {"cluster": "c", "root": "/"},
    ):
        assert await town.status("ann", "PUT", "/api/v1/volumes/x", body) == 422, body
    assert await town.status("may", "PUT", "/api/v1/volumes/x?project=alpha", {"volume_class": "home"}) == 422
    assert await town.status("ann", "PUT", "/api/v1/volumes/%2e%2e", {}) in {404, 405, 422}


async def test_tokens_reach_what_they_are_held_to(town: Town) -> None:
    await town.ask("ann", "PUT", "/api/v1/volumes/own", {})
    await town.ask("may", "PUT", "/api/v1/volumes/shared?project=alpha", {"volume_class": "project"})
    project = await a_token(town.site, "ann", project="alpha")
    found = (await town.ask(project, "GET", "/api/v1/volumes")).json()["items"]
    assert [one["name"] for one in found] == ["shared"]
    reader = await a_token(town.site, "ann", "sessions:read")
    assert await town.status(reader, "GET", "/api/v1/volumes/own") == 200
    assert await town.status(reader, "PUT", "/api/v1/volumes/own", {}) == 403


async def test_secrets_and_volumes_are_kept_as_policies_say_and_the_log_names_them(town: Town) -> None:
    denied = await town.ask("ann", "PUT", "/api/v1/secrets/root", {"value": "hunter2"})
    assert (denied.status_code, denied.json()["policy"]) == (403, "no-tokens-called-root")
    assert "you may not set this secret" in denied.json()["title"] + denied.json().get("detail", "")
    assert await town.status("ann", "PUT", "/api/v1/secrets/old-one", {"value": "hunter2"}) == 200
    assert await town.status("ann", "PUT", "/api/v1/secrets/new", {"value": "hunter2"}) == 200
    assert [one["name"] for one in (await town.ask("ann", "GET", "/api/v1/secrets")).json()["items"]] == ["new"]
    assert (await town.ask("ann", "GET", "/api/v1/secrets/old-one")).json()["policy"] == "old-secrets"
    await town.ask("ann", "PUT", "/api/v1/volumes/own", {})
    await town.ask("ann", "DELETE", "/api/v1/volumes/own")
    await town.ask("ann", "DELETE", "/api/v1/secrets/new")
    await town.ask("may", "PUT", "/api/v1/secrets/hub?project=alpha", {"value": "hunter2"})
    rows, _ = await town.site.gateway.db.read(audit.find, LOCAL_ADMIN, AuditQuery(limit=500, decision="allow"))
    told = {(row.who, row.action, row.policy) for row in rows}
    assert told >= {
        ("ann", "secret.set", "roles-own"),
        ("ann", "secret.remove", "roles-own"),
        ("ann", "volume.set", "roles-own-volumes"),
        ("ann", "volume.remove", "roles-own-volumes"),
        ("may", "secret.set", "roles-keep-secrets"),
    }


def test_the_shipped_policies_have_no_problems() -> None:
    shipped = Policies()
    text = "\n".join(rule.text for rule in shipped.current.rules.values())
    problems = shipped.check("all.cedar", text).problems
    assert [problem.message for problem in problems if "about `read`" not in problem.message] == []
