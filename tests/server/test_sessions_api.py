"""The session API over real HTTP: start, repeat, list, look, stop, forget."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from gateway.model.api import EventView, SessionView
from gateway.model.session import Phase
from tests.services import Site


async def start(api: httpx.AsyncClient, **values: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if (key := values.pop("key", None)) else {}
    return await api.post("/sessions", json={"recipe": "count", **values}, headers=headers)


async def test_a_session_is_accepted_submitted_and_stopped(api: httpx.AsyncClient, site: Site) -> None:
    created = await start(api, name="one", labels={"a": "b"}, parameters={"to": 5})
    assert created.status_code == 201
    view = SessionView.model_validate_json(created.content)
    assert created.headers["location"] == f"/api/v1/sessions/{view.id}"
    assert (view.name, view.owner, view.phase, view.parameters, view.labels) == (
        "one",
        "admin",
        "requested",
        {"to": 5},
        {"a": "b"},
    )
    job_id = await site.job_id(view.id)
    site.slurm.start(job_id)
    await site.reaches(view.id, Phase.READY)
    assert (await api.get("/sessions/one")).json()["phase"] == "running"
    stopped = await api.post("/sessions/one/stop")
    assert stopped.status_code == 202
    assert stopped.json()["stop_requested"] is True
    assert (await api.post("/sessions/one/stop")).status_code == 202
    await site.reaches(view.id, Phase.STOPPED)
    assert (await api.delete("/sessions/one")).status_code == 204
    gone = await api.get("/sessions/one")
    assert (gone.status_code, gone.json()["code"]) == (404, "session_not_found")


async def test_a_repeated_request_gives_the_same_session(api: httpx.AsyncClient, site: Site) -> None:
    first = await start(api, name="k", key="abc")
    again = await start(api, name="k", key="abc")
    assert (first.status_code, again.status_code) == (201, 201)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert again.json()["id"] == first.json()["id"]
    other = await start(api, name="other", key="abc")
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    del site


async def test_the_same_request_at_once_makes_one_session(api: httpx.AsyncClient, site: Site) -> None:
    answers = await asyncio.gather(*(start(api, name="once", key="k") for _ in range(12)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    await site.job_id("once")
    assert len(site.slurm.submitted()) == 1


async def test_a_taken_name_and_a_live_session_are_conflicts(api: httpx.AsyncClient) -> None:
    await start(api, name="taken")
    assert (await start(api, name="taken")).status_code == 409
    assert (await api.delete("/sessions/taken")).status_code == 409


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"recipe": "cuont"}, 404, "recipe_not_found", None),
        ({"recipe": "count", "parameters": {"to": 10}}, 422, "parameter_invalid", None),
        ({"recipe": "count", "parameters": {"too": 1}}, 422, "parameter_invalid", None),
        ({"recipe": "count", "name": "No Good"}, 422, "invalid", "name"),
        ({"recipe": "count", "colour": "red"}, 422, "invalid", "colour"),
        ({"name": "x"}, 422, "invalid", "recipe"),
        ({"recipe": "count", "cluster": "elsewhere"}, 404, "cluster_not_found", None),
        ([], 422, "invalid", None),
    ],
)
async def test_what_cannot_be_is_said_clearly(
    api: httpx.AsyncClient, body: Any, status: int, code: str, field: str | None
) -> None:
    answer = await api.post("/sessions", json=body)
    told = answer.json()
    assert (answer.status_code, told["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    if field:
        assert [error["field"] for error in told["errors"]] == [field]
    if code == "recipe_not_found":
        assert "'count'" in told["hint"]


async def test_lists_are_filtered_and_paged_newest_first(api: httpx.AsyncClient) -> None:
    ids = [(await start(api, name=f"s{n}")).json()["id"] for n in range(5)]
    found: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        page = (await api.get("/sessions", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next"]
    assert found == ids[::-1]
    assert cursor is None

    async def names(**params: Any) -> list[str]:
        return [item["name"] for item in (await api.get("/sessions", params=params)).json()["items"]]

    assert await names(name="s3") == ["s3"]
    assert await names(recipe="chat") == []
    assert len(await names(ended=False, project="default", cluster="c", recipe="count")) == 5
    assert await names(phase="running") == []
    for bad in ({"phase": "dead"}, {"limit": 0}, {"limit": 9999}, {"cursor": "../x"}):
        assert (await api.get("/sessions", params=bad)).status_code == 422


async def test_labels_find_sessions_again(api: httpx.AsyncClient) -> None:
    await start(api, name="a", labels={"team": "x", "a.b/c": "1"})
    await start(api, name="b", labels={"team": "x"})
    await start(api, name="c", labels={"team": "y"})

    async def names(query: str) -> list[str]:
        return [item["name"] for item in (await api.get(f"/sessions?{query}")).json()["items"]]

    assert await names("label=team=x") == ["b", "a"]
    assert await names("label=team=x&label=a.b/c=1") == ["a"]
    assert await names("label=team=") == []
    for bad in ("team", 'a"b=c', "=x"):
        assert (await api.get("/sessions", params={"label": bad})).status_code == 422


async def test_the_script_is_what_a_dry_run_shows(api: httpx.AsyncClient, site: Site) -> None:
    body = {"recipe": "count", "parameters": {"to": 7}, "resources": {"time": "10m"}}
    dry = await api.post("/sessions", params={"dry_run": "true"}, json=body)
    rendered = await api.post("/recipes/count/render", json={"parameters": {"to": 7}, "resources": {"time": "10m"}})
    assert (dry.status_code, rendered.status_code) == (200, 200)
    assert dry.json()["options"]["time_limit"] == rendered.json()["options"]["time_limit"] == 10
    assert site.slurm.submitted() == []
    assert (await api.get("/sessions")).json()["items"] == []
    created = (await api.post("/sessions", json=body)).json()
    shown = (await api.get(f"/sessions/{created['id']}/script")).json()
    await site.job_id(created["id"])
    assert shown["script"] == site.slurm.submitted()[0][0].text
    text = await api.get(f"/sessions/{created['id']}/script", headers={"Accept": "text/plain"})
    assert text.text == shown["script"]


async def events_of(api: httpx.AsyncClient, path: str, enough: int, **headers: str) -> list[EventView]:
    found: list[EventView] = []
    async with api.stream("GET", path, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                found.append(EventView.model_validate(json.loads(line.removeprefix("data: "))))
                if len(found) == enough:
                    break
    return found


async def test_events_are_pushed_and_resume_where_the_reader_left_off(api: httpx.AsyncClient, site: Site) -> None:
    session = await site.create("count", name="e")
    seen = await events_of(api, "/sessions/e/events", 2)
    assert [event.type for event in seen] == ["session.created", "session.phase"]
    job_id = await site.job_id(session.id)
    site.slurm.start(job_id)
    site.slurm.finish(job_id)
    rest = await events_of(api, "/sessions/e/events?until_end=true", 99, **{"Last-Event-ID": str(seen[-1].id)})
    assert [event.id for event in rest] == sorted(event.id for event in rest)
    assert rest[0].id > seen[-1].id
    assert rest[-1].data["phase"] == "succeeded"
    everything = await events_of(api, f"/events?after={seen[0].id - 1}", len(seen) + len(rest))
    assert [event.id for event in everything] == [event.id for event in [*seen, *rest]]
    assert (await api.get("/sessions/nobody/events")).status_code == 404


@pytest.mark.parametrize("place", [2**62 + 1, 2**64, 10**40, -1])
async def test_a_place_that_nobody_was_given_is_refused(site: Site, api: httpx.AsyncClient, place: int) -> None:
    await site.create("count", name="e")
    for path in ("/events?follow=false", "/sessions/e/events?follow=false", "/sessions/e/logs"):
        assert (await api.get(path, headers={"Last-Event-ID": str(place)})).status_code == 422
    for path in ("/events?follow=false&after", "/sessions/e/events?follow=false&after", "/sessions/e/logs?attempt"):
        assert (await api.get(f"{path}={place}")).status_code == 422
    assert (await api.get(f"/sessions/e/logs?offset={place}")).status_code == (200 if place == -1 else 422)


async def test_after_the_last_event_there_is_none(site: Site, api: httpx.AsyncClient) -> None:
    await site.create("count", name="e")
    assert (await api.get("/events?follow=false", headers={"Last-Event-ID": str(2**62)})).text == "retry: 1000\n\n"


async def test_without_a_start_all_events_begin_now(api: httpx.AsyncClient, site: Site) -> None:
    await site.create("count")
    old = (await events_of(api, "/events?after=0", 1))[0]
    following = asyncio.create_task(events_of(api, "/events", 1))

    async def made() -> bool:
        await site.create("count")
        return following.done()

    await site.until(made, "an event came")
    assert following.result()[0].id > old.id


async def test_logs_are_read_followed_and_resumed(api: httpx.AsyncClient, site: Site) -> None:
    session = await site.create("count", name="l")
    assert (await api.get("/sessions/l/logs")).json()["text"] == ""
    log = site.log(session)
    log.write_text("one\ntwo\n")
    chunk = (await api.get("/sessions/l/logs", params={"offset": 4})).json()
    assert (chunk["text"], chunk["next"], chunk["size"]) == ("two\n", 8, 8)
    assert (await api.get("/sessions/l/logs", headers={"Accept": "text/plain"})).text == "one\ntwo\n"
    job_id = await site.job_id(session.id)
    site.slurm.start(job_id)
    got = ""
    async with api.stream("GET", "/sessions/l/logs", params={"follow": "true"}) as response:
        assert response.headers["content-type"].startswith("text/plain")
        async for text in response.aiter_text():
            got += text
            if got == "one\ntwo\n":
                with log.open("a") as file:
                    file.write("three\n")
                site.slurm.finish(job_id)
    assert got == "one\ntwo\nthree\n"
    lines = (
        await api.get(
            "/sessions/l/logs", params={"follow": "true"}, headers={"Accept": "text/event-stream", "Last-Event-ID": "8"}
        )
    ).text
    assert 'event: log\ndata: {"file":"service-1.log","offset":8,"next":14,"size":14,"text":"three\\n"}' in lines
    beyond = (await api.get(f"/sessions/l/logs?offset={2**62}")).json()
    assert (beyond["text"], beyond["next"], beyond["size"]) == ("", 2**62, 14)
    for bad in ("file=passwd", "follow=true&attempt=1", "nonsense=1"):
        assert (await api.get(f"/sessions/l/logs?{bad}")).status_code == 422
