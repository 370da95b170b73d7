"""The rest of /api/v1: recipes, images, clusters, health, and what OpenAPI says of it all."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.model.api import (
    ClusterView,
    EventView,
    HealthView,
    LogChunk,
    Problem,
    ScriptView,
    SessionRequest,
    SessionView,
)
from gateway.model.image import Image
from gateway.server.api import examples
from gateway.server.app import rest
from gateway.web.openapi import Api
from tests.services import Site


async def test_recipes_are_listed_with_what_is_broken(api: httpx.AsyncClient, site: Site) -> None:
    (site.recipes / "broken.yaml").write_text("name: broken\nversion: 1\n")
    page = (await api.get("/recipes")).json()
    assert [item["name"] for item in page["items"]] == ["app", "chat", "count"]
    assert "broken.yaml" in page["problems"][0]["file"]
    assert "version" in page["problems"][0]["message"]


async def test_a_recipe_its_parameters_and_the_schema_of_files(api: httpx.AsyncClient) -> None:
    recipe = (await api.get("/recipes/count")).json()
    assert (recipe["title"], recipe["versions"], recipe["recipe"]["command"]) == (
        "Counts",
        ["1.0"],
        ["count", "{{ to }}"],
    )
    form = (await api.get("/recipes/count/schema", params={"version": "1.0"})).json()
    assert form["properties"]["to"]["maximum"] == 9
    assert (await api.get("/recipes/schema")).json()["title"] == "Sluice recipe"
    missing = await api.get("/recipes/chatt")
    assert (missing.status_code, missing.json()["hint"]) == (404, "Did you mean 'chat'?")


async def test_an_image_that_is_not_there_is_told_before_anything_is_made(api: httpx.AsyncClient, site: Site) -> None:
    (site.recipes / "other.yaml").write_text('name: other\nversion: "1"\nkind: batch\nimage: nope\ncommand: [x]\n')
    answer = await api.post("/sessions", json={"recipe": "other"})
    assert (answer.status_code, answer.json()["code"]) == (409, "image_missing")
    assert (await api.get("/sessions")).json()["items"] == []


async def test_images(api: httpx.AsyncClient) -> None:
    assert [image["name"] for image in (await api.get("/images")).json()["items"]] == ["base"]
    assert (await api.get("/images", params={"name": "x"})).json()["items"] == []


async def test_clusters_show_partitions_nodes_and_gpus(api: httpx.AsyncClient, site: Site) -> None:
    async def polled() -> bool:
        return bool((await api.get("/clusters/c")).json()["partitions"])

    await site.until(polled, "the first inventory")
    view = (await api.get("/clusters")).json()["items"][0]
    assert view["reachable"]
    assert [partition["name"] for partition in view["partitions"]] == ["cpu", "gpu", "debug"]
    assert view["gpus"] == [{"name": "gpu", "type": "a100", "total": 8, "used": 0}]
    calls = dict(site.slurm.calls)
    for _ in range(5):
        await api.get("/clusters")
    assert site.slurm.calls["inventory"] == calls["inventory"]
    assert (await api.get("/clusters/d")).json()["code"] == "cluster_not_found"


async def test_health_asks_the_database_and_the_loop(api: httpx.AsyncClient, site: Site) -> None:
    async def well() -> bool:
        return bool((await api.get("/health/ready")).json()["status"] == "ok")

    await site.until(well, "health")
    checks = (await api.get("/health/ready")).json()["checks"]
    assert checks["database"] == "ok"
    assert re.fullmatch(r"answered \d+\.\d s ago", checks["cluster c"])
    assert re.fullmatch(r".+ \(process \d+\), this server: term 1, renewed \d+\.\d s ago", checks["lease c"])
    async with httpx.AsyncClient(base_url=api.base_url, timeout=60) as stranger:
        assert (await stranger.get("health/live")).status_code == 200
        assert (await stranger.get("health/ready")).status_code == 401


async def test_health_is_not_green_without_a_database(api: httpx.AsyncClient, site: Site) -> None:
    folder, away = site.gateway.settings.state_dir, site.home / "away"
    folder.rename(away)  # at once with all that belongs to it, as the loop goes on and would make an empty one
    site.gateway.db.engine.dispose()
    answer = await api.get("/health/ready")
    assert answer.status_code == 503
    assert "unable to open" in answer.json()["checks"]["database"]
    away.rename(folder)
    assert (await api.get("/health/ready")).status_code == 200


async def test_the_documentation_pages_load_nothing_from_elsewhere(api: httpx.AsyncClient) -> None:
    for path in ("/docs", "/redoc"):
        page = await api.get(path)
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert links
        for link in links:
            assert link.startswith("/api/v1/docs/assets/")
            assert (await api.get(link.removeprefix("/api/v1"))).status_code == 200
    assert "connect-src 'self'" in (await api.get("/docs")).headers["content-security-policy"]


@pytest.fixture
def app(site: Site) -> Api:
    return rest(site.gateway)


def operations(app: Api) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


OPEN = {
    "/api/v1/health/live",
    "/api/v1/auth",
    "/api/v1/auth/munge",
    "/api/v1/auth/session",
}  # asked by who has no token yet


def test_every_operation_is_described(app: Api) -> None:
    schema = app.openapi()
    assert schema["openapi"].startswith("3.1")
    assert not {"HTTPValidationError", "ValidationError"} & set(schema["components"]["schemas"])
    ids = []
    for path, method, operation in operations(app):
        where = f"{method} {path}"
        ids.append(operation["operationId"])
        assert re.fullmatch(r"[a-z][A-Za-z]+", operation["operationId"]), where
        assert operation["summary"], where
        assert operation["description"], where
        assert operation["tags"], where
        if path not in OPEN:
            assert operation["security"] == [{"token": []}], where
            assert "401" in operation["responses"], where
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"], where
                Problem.model_validate(answer["content"]["application/problem+json"]["example"])
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (SessionView, examples.SESSION),
        (ScriptView, examples.SCRIPT),
        (EventView, examples.EVENT),
        (LogChunk, examples.LOG),
        (ClusterView, examples.CLUSTER),
        (HealthView, examples.HEALTH),
        (Image, examples.IMAGE),
        *((SessionRequest, request["value"]) for request in examples.REQUESTS.values()),
    ],
)
def test_examples_are_what_they_stand_for(model: Any, example: Any) -> None:
    assert model.model_validate(example)
