"""What ends a batch before it is done, or costs it a line: lost rights, policies, models that are not there."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.core import tokens
from gateway.model.audit import AuditQuery, AuditRow
from gateway.model.principal import LOCAL_ADMIN
from gateway.store import audit, tasks
from tests.client.fleet import Fleet, a_fleet
from tests.client.test_batches import Model, content, ended, lines, read, simple, start, texts, until, upload
from tests.people import Somebody, a_person, a_token
from tests.waiting import until_so

LINES = 2000
CLOSED = """\
@id("closed-models")
@allows("asking chat models")
forbid (principal, action == Action::"call", resource) when { resource.recipe == Recipe::"app" };
"""


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "site.cedar").write_text(CLOSED)
    limits = {"most_lines": LINES, "line_bytes": 2048, "file_bytes": 1 << 20, "model_seconds": 1}
    async with a_fleet(tmp_path, tasks=limits, policies=[folder]) as made:
        yield made


def of(model: str, number: int) -> bytes:
    """A line that asks a model."""
    body = {"model": model, "prompt": f"p{number}"}
    return json.dumps({"custom_id": f"c{number}", "url": "/v1/completions", "body": body}).encode() + b"\n"


async def as_somebody(fleet: Fleet, who: Somebody, content: bytes) -> str:
    """A batch of theirs."""
    given = {"file": ("in.jsonl", content)}
    file = await fleet.http.post("/v1/files", files=given, data={"purpose": "batch"}, headers=who.auth)
    wanted = {"input_file_id": file.json()["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    told = await fleet.http.post("/v1/batches", json=wanted, headers=who.auth)
    assert told.status_code == 200, told.text
    return str(told.json()["id"])


async def test_a_token_that_is_revoked_ends_its_batch_and_leaves_what_was_done(fleet: Fleet) -> None:
    model = Model()
    await fleet.serve(model)
    ann = await a_person(fleet.site, "ann", {"default": "member"})
    other = await a_token(fleet.site, "ann")
    batch = await as_somebody(fleet, ann, lines(LINES))

    async def seen() -> httpx.Response:
        return await fleet.http.get(f"/v1/batches/{batch}", headers=other.auth)

    await until_so(seen, lambda found: found.json()["request_counts"]["completed"] >= 20)
    model.free.clear()
    await tokens.revoke(fleet.site.gateway, LOCAL_ADMIN, ann.token_id)
    done = (await until_so(seen, lambda found: found.json()["status"] == "failed")).json()
    model.free.set()
    asked = len(model.asked)
    assert done["errors"]["data"][0]["message"] == "the token that asked for this task was revoked"
    told = await fleet.http.get(f"/v1/files/{done['output_file_id']}/content", headers=other.auth)
    kept = [json.loads(line)["custom_id"] for line in told.text.splitlines()]
    assert 20 <= len(kept) == done["request_counts"]["completed"] < LINES
    assert kept == [f"c{number}" for number in sorted(int(one[1:]) for one in kept)]
    told = await fleet.http.get(f"/v1/files/{done['error_file_id']}/content", headers=other.auth)
    wrong = [json.loads(line) for line in told.text.splitlines()]
    assert {line["error"]["code"] for line in wrong} == {"batch_failed"}
    assert len({*kept, *(line["custom_id"] for line in wrong)}) == LINES == len(kept) + len(wrong)
    assert (await fleet.http.get(f"/v1/batches/{batch}", headers=ann.auth)).status_code == 401
    another = await as_somebody(fleet, other, lines(3))
    await until_so(
        lambda: fleet.http.get(f"/v1/batches/{another}", headers=other.auth),
        lambda found: found.json()["status"] == "completed",
    )
    assert len(model.asked) == asked + 3, "of the batch that ended nothing was asked any more"


async def test_nobody_finds_the_files_and_batches_of_somebody_else(fleet: Fleet) -> None:
    await fleet.serve(Model())
    batch = await start(fleet, lines(2))
    done = await ended(fleet, batch)
    ann = await a_person(fleet.site, "ann", {"default": "member"})
    wanted = {"input_file_id": done["input_file_id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    refused = [
        await fleet.http.request(method, f"/v1{path}", headers=ann.auth, json=body)
        for method, path, body in (
            ("GET", f"/batches/{batch}", None),
            ("POST", f"/batches/{batch}/cancel", None),
            ("POST", "/batches", wanted),
            ("GET", f"/files/{done['input_file_id']}", None),
            ("GET", f"/files/{done['input_file_id']}/content", None),
            ("GET", f"/files/{done['output_file_id']}/content", None),
            ("DELETE", f"/files/{done['output_file_id']}", None),
        )
    ]
    told = [(answer.status_code, answer.json()["error"]["type"]) for answer in refused]
    assert told == [(404, "invalid_request_error")] * 7
    for listed in ("batches", "files"):
        assert (await fleet.http.get(f"/v1/{listed}", headers=ann.auth)).json()["data"] == []
    assert len(await read(fleet, done["output_file_id"])) == 2


async def test_lines_that_were_not_answered_in_time_are_told_as_expired(fleet: Fleet) -> None:
    model = Model(lambda prompt, _: 503 if prompt in {"p3", "p9"} else 200)  # which says: not now
    await fleet.serve(model)
    batch = await start(fleet, lines(10))
    await until(fleet, batch, lambda found: found["request_counts"]["completed"] == 8)

    async def late() -> bool:
        before = await fleet.site.gateway.db.read(tasks.reread, batch)
        assert before is not None
        after = before.model_copy(update={"expires_at": before.created_at})
        return await fleet.site.gateway.db.write(tasks.save, before, after) is not None

    await until_so(late)
    done = await ended(fleet, batch)
    assert (done["status"], done["request_counts"]) == ("expired", {"total": 10, "completed": 8, "failed": 2})
    assert done["expired_at"] is not None
    wrong = await read(fleet, done["error_file_id"])
    assert [(line["custom_id"], line["response"], line["error"]["code"]) for line in wrong] == [
        ("c3", None, "batch_expired"),
        ("c9", None, "batch_expired"),
    ]
    whole = await fleet.http.get(f"/v1/files/{done['output_file_id']}/content")
    assert len(whole.text.splitlines()) == 8


async def denials(fleet: Fleet) -> list[AuditRow]:
    rows, _ = await fleet.site.gateway.db.read(audit.find, LOCAL_ADMIN, AuditQuery(decision="deny"))
    return rows


async def test_a_line_that_a_policy_denies_says_which_and_the_others_go_on(fleet: Fleet) -> None:
    closed = Model()
    await fleet.serve(Model())
    await fleet.serve(closed, name="closed", recipe="app", protocol="openai", model="second")
    given = b"".join(of("second" if number in {2, 4} else "tiny", number) for number in range(1, 6))
    done = await ended(fleet, await start(fleet, given))
    assert (done["status"], done["request_counts"]) == ("completed", {"total": 5, "completed": 3, "failed": 2})
    assert texts(await read(fleet, done["output_file_id"])) == ["1p", "3p", "5p"]
    wrong = await read(fleet, done["error_file_id"])
    assert [(line["custom_id"], line["response"], line["error"]["code"]) for line in wrong] == [
        ("c2", None, "policy_denied"),
        ("c4", None, "policy_denied"),
    ]
    assert "forbidden by the policy closed-models" in wrong[0]["error"]["message"]
    assert closed.asked == []
    told = await until_so(lambda: denials(fleet))
    assert {(row.who, row.policy, row.object) for row in told} == {("admin", "closed-models", done["id"])}


async def test_a_model_that_nobody_serves_costs_its_lines_alone(fleet: Fleet) -> None:
    await fleet.serve(Model())
    done = await ended(fleet, await start(fleet, of("nowhere", 1) + of("tiny", 2) + of("nowhere", 3)))
    assert (done["status"], done["request_counts"]) == ("completed", {"total": 3, "completed": 1, "failed": 2})
    wrong = await read(fleet, done["error_file_id"])
    assert [(line["custom_id"], line["error"]["code"]) for line in wrong] == [
        ("c1", "model_not_found"),
        ("c3", "model_not_found"),
    ]
    assert wrong[0]["error"]["message"] == "nobody serves the model 'nowhere'"


async def test_results_of_a_cancelled_batch_are_read_by_range(fleet: Fleet) -> None:
    model = Model()
    await fleet.serve(model)
    task = await simple(fleet, "demo", *({"prompt": f"p{number}"} for number in range(LINES)))
    await until(fleet, task.id, lambda found: found["request_counts"]["completed"] >= 50)
    model.free.clear()
    await fleet.http.post(f"/v1/batches/{task.id}/cancel")
    done = await ended(fleet, task.id)
    model.free.set()
    assert done["status"] == "cancelled"
    whole = (await content(fleet, done["output_file_id"])).content
    assert len(whole.splitlines()) == done["request_counts"]["completed"] >= 50
    half = len(whole) // 2
    first = await content(fleet, done["output_file_id"], Range=f"bytes=0-{half}")
    rest = await content(fleet, done["output_file_id"], Range=f"bytes={half + 1}-")
    assert (first.status_code, rest.status_code) == (206, 206)
    assert first.content + rest.content == whole
    assert rest.headers["content-range"] == f"bytes {half + 1}-{len(whole) - 1}/{len(whole)}"
    again = {"Range": f"bytes={half + 1}-", "If-Range": first.headers["etag"]}
    assert (await content(fleet, done["output_file_id"], **again)).content == rest.content


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (b"", [(None, "empty_file", "there are no lines")]),
        (b"\n  \n\n", [(None, "empty_file", "there are no lines")]),
        (lines(2) + b"\n" + lines(1), [(4, "duplicate_custom_id", "custom_id: 'c1' stands there twice")]),
        (lines(1) + b'{"custom_id": "a", "url"\n', [(2, "invalid_json_line", None)]),
        (lines(1) + b'{"custom_id": "\xff"}\n', [(2, "invalid_json_line", None)]),
        (lines(1) + b'"' + b"x" * 2048 + b'"\n', [(2, "line_too_long", "it is longer than 2 KiB")]),
        (lines(LINES + 1), [(LINES + 1, "too_many_lines", f"there are more than {LINES} lines")]),
    ],
    ids=["empty", "blank", "twice", "cut off", "no utf-8", "long line", "many lines"],
)
async def test_what_is_wrong_with_an_input_is_told_with_its_line(
    fleet: Fleet, given: bytes, told: list[tuple[int | None, str, str | None]]
) -> None:
    done = await ended(fleet, await start(fleet, given))
    assert (done["status"], done["request_counts"]["completed"]) == ("failed", 0)
    found = done["errors"]["data"]
    assert [(fault["line"], fault["code"]) for fault in found] == [(line, code) for line, code, _ in told]
    assert all(words in {None, fault["message"]} for fault, (_, _, words) in zip(found, told, strict=True))


async def test_a_file_that_is_too_long_is_refused_and_nothing_of_it_stays(fleet: Fleet) -> None:
    for size, status in ((1 << 20, 200), ((1 << 20) + 1, 413)):
        given = {"file": ("in.jsonl", b"x" * size)}
        told = await fleet.http.post("/v1/files", files=given, data={"purpose": "batch"})
        assert told.status_code == status
    said = told.json()["error"]
    assert (said["code"], said["type"], said["message"]) == (
        "too_large",
        "invalid_request_error",
        "the file is longer than 1 MiB",
    )
    listed = (await fleet.http.get("/v1/files")).json()["data"]
    assert [one["bytes"] for one in listed] == [1 << 20]
    await upload(fleet, b"y")
