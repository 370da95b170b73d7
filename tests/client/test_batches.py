"""Files and batches over a real front and real relays: order, errors line by line, ends of every kind, ranges."""

import asyncio
import io
import json
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest

from gateway.client.runner import Watch
from gateway.core import tasks
from gateway.core.tasks import Asked as Wanted
from gateway.errors import Invalid
from gateway.model.plan import PlannedReplicas
from gateway.model.session import Phase
from gateway.model.task import Task
from gateway.store import files, results
from gateway.store.tasks import Held
from tests.client.fleet import Fleet, a_fleet
from tests.services import ADMIN, Asked, answer, read_request
from tests.waiting import until_so

Body = dict[str, Any]


class Model:
    """Says prompts backwards. `odd` says what else becomes of a prompt: a status, or None for a broken connection."""

    def __init__(self, odd: Callable[[str, int], int | None] = lambda prompt, times: 200) -> None:  # noqa: ARG005
        self.asked: list[Asked] = []
        self.most = self.now = 0
        self.free = asyncio.Event()
        self.free.set()
        self._odd, self._times = odd, Tally[str]()

    @property
    def prompts(self) -> list[str]:
        return [one.json["prompt"] for one in self.asked]

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await read_request(reader)) is not None:
            self.asked.append(asked)
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await self.free.wait()
            finally:
                self.now -= 1
            prompt = asked.json["prompt"]
            self._times[prompt] += 1
            match self._odd(prompt, self._times[prompt]):
                case None:
                    writer.close()
                    return
                case 200:
                    usage = {"prompt_tokens": 1, "completion_tokens": 2}
                    writer.write(answer({"choices": [{"text": prompt[::-1]}], "usage": usage}))
                case status:
                    writer.write(answer({"error": {"message": "no"}}, f"{status} No"))
            await writer.drain()


def lines(number: int, **more: Any) -> bytes:
    """Lines in OpenAI's form, which ask for p1, p2, and so on."""
    made = [
        {
            "custom_id": f"c{one}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": "tiny", "prompt": f"p{one}", **more},
        }
        for one in range(1, number + 1)
    ]
    return "".join(json.dumps(line) + "\n" for line in made).encode()


async def upload(fleet: Fleet, content: bytes, name: str = "in.jsonl") -> Body:
    told = await fleet.http.post("/v1/files", files={"file": (name, content)}, data={"purpose": "batch"})
    assert told.status_code == 200, told.text
    found: Body = told.json()
    return found


async def start(fleet: Fleet, content: bytes, endpoint: str = "/v1/completions") -> str:
    file = await upload(fleet, content)
    wanted = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"}
    told = await fleet.http.post("/v1/batches", json=wanted)
    assert told.status_code == 200, told.text
    return str(told.json()["id"])


async def until(fleet: Fleet, batch: str, reached: Callable[[Body], bool]) -> Body:
    async with asyncio.timeout(120):
        while True:
            found: Body = (await fleet.http.get(f"/v1/batches/{batch}")).json()
            if reached(found):
                return found
            await fleet.site.gateway.news.wait(0.05)


async def ended(fleet: Fleet, batch: str) -> Body:
    return await until(fleet, batch, lambda found: found["status"] in {"completed", "failed", "cancelled", "expired"})


async def content(fleet: Fleet, file: str | None, **headers: str) -> httpx.Response:
    assert file is not None
    return await fleet.http.get(f"/v1/files/{file}/content", headers=headers)


async def read(fleet: Fleet, file: str | None) -> list[Body]:
    told = await content(fleet, file)
    assert told.status_code == 200, told.text
    return [json.loads(line) for line in told.text.splitlines()]


def texts(found: list[Body]) -> list[str]:
    return [line["response"]["body"]["choices"][0]["text"] for line in found]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with a_fleet(tmp_path, tasks={"tries": 3, "most_live": 3, "user_bytes": 4 << 20}) as made:
        yield made


async def test_results_come_in_the_order_of_the_lines_whoever_answers_first(fleet: Fleet) -> None:
    one, two = Model(), Model()
    await fleet.serve(one, two)
    done = await ended(fleet, await start(fleet, lines(300)))
    assert (done["status"], done["request_counts"]) == ("completed", {"total": 300, "completed": 300, "failed": 0})
    assert done["error_file_id"] is None
    found = await read(fleet, done["output_file_id"])
    assert [line["custom_id"] for line in found] == [f"c{number}" for number in range(1, 301)]
    assert texts(found) == [f"p{number}"[::-1] for number in range(1, 301)]
    assert min(len(one.asked), len(two.asked)) > 50
    assert max(one.most, two.most) <= 32
    assert (await fleet.site.gateway.db.read(results.length, done["id"])) == len(
        (await content(fleet, done["output_file_id"])).content
    )


async def test_a_line_that_goes_wrong_has_its_error_and_the_others_their_answers(fleet: Fleet) -> None:
    def odd(prompt: str, times: int) -> int | None:
        said: dict[str, int | None] = {"p2": 400, "p3": None, "p4": 500, "p6": 503 if times < 5 else 200}
        return said.get(prompt, 200)

    model = Model(odd)
    await fleet.serve(model)
    done = await ended(fleet, await start(fleet, lines(6)))
    assert (done["status"], done["request_counts"]) == ("completed", {"total": 6, "completed": 3, "failed": 3})
    assert [line["custom_id"] for line in await read(fleet, done["output_file_id"])] == ["c1", "c5", "c6"]
    wrong = await read(fleet, done["error_file_id"])
    assert [line["custom_id"] for line in wrong] == ["c2", "c3", "c4"]
    assert [line["response"] and line["response"]["status_code"] for line in wrong] == [400, None, 500]
    assert wrong[1]["error"]["code"] == "upstream_closed"
    counts = {prompt: model.prompts.count(prompt) for prompt in model.prompts}
    assert (counts["p1"], counts["p2"], counts["p4"], counts["p6"]) == (1, 1, 3, 5)


async def test_a_file_that_is_not_as_it_must_be_is_told_line_by_line(fleet: Fleet) -> None:
    bad = [
        *lines(2).splitlines(),
        b"not json",
        lines(1),
        b'{"custom_id": "x", "method": "POST", "url": "/metrics", "body": {"model": "tiny"}}',
        b'{"custom_id": "y", "method": "POST", "url": "/v1/completions", "body": {"model": "tiny", "stream": true}}',
        b'{"custom_id": "z", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a"}}',
    ]
    done = await ended(fleet, await start(fleet, b"\n".join(line.strip() for line in bad)))
    assert done["status"] == "failed"
    told = [(fault["line"], fault["code"]) for fault in done["errors"]["data"]]
    assert told == [
        (3, "invalid_json_line"),
        (4, "duplicate_custom_id"),
        (5, "invalid_url"),
        (6, "invalid_request"),
        (7, "invalid_request"),
    ]
    assert (done["output_file_id"], done["request_counts"]["completed"]) == (None, 0)


async def test_what_is_done_when_it_is_cancelled_is_kept(fleet: Fleet) -> None:
    model = Model()
    await fleet.serve(model)
    batch = await start(fleet, lines(2000))
    await until(fleet, batch, lambda found: found["request_counts"]["completed"] >= 20)
    model.free.clear()
    told = (await fleet.http.post(f"/v1/batches/{batch}/cancel")).json()
    assert told["status"] == "cancelling"
    done = await ended(fleet, batch)
    model.free.set()
    kept, left = await read(fleet, done["output_file_id"]), await read(fleet, done["error_file_id"])
    assert done["status"] == "cancelled"
    assert 20 <= len(kept) == done["request_counts"]["completed"] < 2000
    assert {line["error"]["code"] for line in left} == {"batch_cancelled"}
    assert sorted(line["custom_id"] for line in kept + left) == sorted(f"c{number}" for number in range(1, 2001))
    assert done["request_counts"]["failed"] == len(left)
    assert (await fleet.http.post(f"/v1/batches/{batch}/cancel")).json()["status"] == "cancelled"


async def simple(fleet: Fleet, session: str, *given: object, **asked: Any) -> Task:
    """A task with lines as people write them."""

    async def content() -> AsyncIterator[bytes]:
        for line in given:
            yield json.dumps(line).encode() + b"\n"

    return (await tasks.create(fleet.site.gateway, ADMIN, Wanted(session=session, **asked), "in.jsonl", content()))[0]


async def test_a_task_waits_for_a_session_that_sleeps_and_fails_when_it_ends(fleet: Fleet) -> None:
    session = await fleet.serve()
    batch = (await simple(fleet, "demo", *({"prompt": f"p{number}"} for number in range(2000)))).id

    async def woken() -> bool:
        return (await fleet.site.get(session.id)).asleep_at is None

    await fleet.site.until(woken, "the first line starts it")
    await fleet.wakes(session, Model())
    await until(fleet, batch, lambda found: found["request_counts"]["completed"] >= 5)
    await fleet.change(session, 1, phase=Phase.STOPPED, reason="stopped", message="You asked for it.")
    await fleet.drop(session, 1)
    done = await ended(fleet, batch)
    assert done["status"] == "failed"
    assert done["errors"]["data"][0]["message"] == "session demo has ended (stopped): You asked for it."
    kept = await read(fleet, done["output_file_id"])
    assert 5 <= len(kept) == done["request_counts"]["completed"] < 2000


async def test_lines_that_begin_alike_are_asked_of_one_replica(fleet: Fleet) -> None:
    models = [Model() for _ in range(3)]
    await fleet.serve(*models, affinity="prefix")
    start = "You are a helpful assistant. " * 200
    task = await simple(fleet, "demo", *({"prompt": f"{start}{number}"} for number in range(10)), concurrency=1)
    assert (await ended(fleet, task.id))["request_counts"]["completed"] == 10
    assert sorted(len(model.asked) for model in models) == [0, 0, 10]


async def test_lines_that_wait_for_more_replicas_start_some(fleet: Fleet) -> None:
    model = Model()
    model.free.clear()
    session = await fleet.serve(
        model, max_in_flight=2, replicas=PlannedReplicas(min=1, max=4, target_in_flight=2, scale_down_after=1)
    )
    batch = await start(fleet, lines(100))

    async def busy() -> tuple[int, int]:
        load = (await fleet.loads()).get(session.id)
        return (load.in_flight, load.waiting) if load is not None else (-1, -1)

    await until_so(busy, lambda now: now == (1, 8), what="more is to do than four replicas would do")
    model.free.set()
    assert (await ended(fleet, batch))["request_counts"]["completed"] == 100
    await until_so(busy, lambda now: now == (0, 0), what="nothing is to do")


async def test_lines_may_be_bodies_alone_or_texts(fleet: Fleet) -> None:
    model = Model()
    session = await fleet.serve(model)
    await fleet.serve(Model(), name="other")
    task = await simple(fleet, "demo", {"prompt": "one", "model": "whatever"}, {"prompt": "two"})
    done = await ended(fleet, task.id)
    assert (texts(await read(fleet, done["output_file_id"])), done["request_counts"]["failed"]) == (["eno", "owt"], 0)
    assert [one.json["model"] for one in model.asked] == ["tiny", "tiny"]
    assert (task.session, task.project) == (session.id, "default")
    with pytest.raises(Invalid) as refused:
        await simple(fleet, "demo", {"prompt": "x"}, {"nothing": "to ask"}, 7)
    assert [fault["line"] for fault in refused.value.details["errors"]] == [2, 3]
    assert len((await fleet.http.get("/v1/batches")).json()["data"]) == 1
    assert len(await fleet.site.gateway.db.read(files.find, ADMIN)) == 2


async def test_files_are_kept_within_bounds_and_read_by_range(fleet: Fleet) -> None:
    whole = bytes(range(256)) * 6000  # a chunk and a half
    file = await upload(fleet, whole, "dätä.bin")
    assert (file["bytes"], file["filename"], file["purpose"]) == (len(whole), "dätä.bin", "batch")
    every = await content(fleet, file["id"])
    assert (every.status_code, every.content) == (200, whole)
    middle = await content(fleet, file["id"], Range="bytes=1048570-1048585")
    assert (middle.status_code, middle.content) == (206, whole[1048570:1048586])
    assert middle.headers["content-range"] == f"bytes 1048570-1048585/{len(whole)}"
    assert (await content(fleet, file["id"], Range="bytes=-7")).content == whole[-7:]
    assert (await content(fleet, file["id"], Range=f"bytes={len(whole)}-")).status_code == 416
    assert (await content(fleet, file["id"], Range=f"bytes={'9' * 50}-")).status_code == 416
    assert (await content(fleet, file["id"], Range=f"bytes=0-{'9' * 5000}")).status_code == 200
    assert (await fleet.http.get("/v1/files", params={"limit": "1" * 5000})).json()["error"]["param"] == "limit"
    known = {"If-None-Match": every.headers["etag"]}
    assert (await content(fleet, file["id"], **known)).status_code == 304
    other = await content(fleet, file["id"], **{"Range": "bytes=0-1", "If-Range": '"another"'})
    assert (other.status_code, len(other.content)) == (200, len(whole))
    too_much = await fleet.http.post("/v1/files", files={"file": ("b", whole * 2)}, data={"purpose": "batch"})
    assert (too_much.status_code, too_much.json()["error"]["code"]) == (413, "too_large")
    wrong = await fleet.http.post("/v1/files", files={"file": ("b", b"x")}, data={"purpose": "fine-tune"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "purpose")
    soon = {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    kept = await fleet.http.post("/v1/files", files={"file": ("b", b"x")}, data=soon)
    assert (kept.status_code, kept.json()["error"]["param"]) == (400, "expires_after")
    body = {"input_file_id": file["id"], "endpoint": ASKED, "output_expires_after": {"anchor": "created_at"}}
    kept = await fleet.http.post("/v1/batches", json=body)
    assert (kept.status_code, kept.json()["error"]["param"]) == (400, "output_expires_after")
    assert [one["id"] for one in (await fleet.http.get("/v1/files")).json()["data"]] == [file["id"]]
    owner = fleet.site.gateway.db
    assert await owner.read(files.used_by, "admin") == len(whole)
    assert (await fleet.http.delete(f"/v1/files/{file['id']}")).json()["deleted"] is True
    assert (await content(fleet, file["id"])).status_code == 404
    assert await owner.read(files.used_by, "admin") == 0


async def test_no_more_tasks_at_once_than_are_allowed(fleet: Fleet) -> None:
    model = Model()
    model.free.clear()
    await fleet.serve(model)
    batches = [await start(fleet, lines(1)) for _ in range(3)]
    read = (await fleet.http.get(f"/v1/batches/{batches[0]}")).json()["input_file_id"]
    busy = await fleet.http.delete(f"/v1/files/{read}")
    assert (busy.status_code, busy.json()["error"]["type"]) == (409, "invalid_request_error")
    file = await upload(fleet, lines(1))
    wanted = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    told = await fleet.http.post("/v1/batches", json=wanted)
    assert (told.status_code, told.json()["error"]["code"]) == (429, "too_many_requests")
    model.free.set()
    assert {(await ended(fleet, batch))["status"] for batch in batches} == {"completed"}
    listed = (await fleet.http.get("/v1/batches", params={"limit": 2})).json()
    assert ([one["id"] for one in listed["data"]], listed["has_more"]) == (batches[:0:-1], True)
    rest = (await fleet.http.get("/v1/batches", params={"after": listed["last_id"]})).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (batches[:1], False)


ASKED: Literal["/v1/completions"] = "/v1/completions"


def with_the_sdk(url: str, token: str) -> tuple[str, list[str], list[str], int]:
    """A batch from its file to its results, with the client that most people use."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0) as client:
        file = client.files.create(file=("in.jsonl", io.BytesIO(lines(20))), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint=ASKED, completion_window="24h", metadata={"for": "test"}
        )
        while batch.status not in {"completed", "failed", "cancelled", "expired"}:
            batch = client.batches.retrieve(batch.id)
        said = client.files.content(str(batch.output_file_id)).text
        listed = [one.id for one in client.batches.list(limit=1)]
        assert (listed, batch.metadata) == ([batch.id], {"for": "test"})
        client.files.delete(file.id)
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
        with pytest.raises(openai.NotFoundError):
            client.batches.cancel("batch_none")
        with pytest.raises(openai.BadRequestError):
            client.batches.create(input_file_id=str(batch.output_file_id), endpoint=ASKED, completion_window="24h")
        named = [one.filename for one in client.files.list()]
        counts = batch.request_counts
        return (
            batch.status,
            [json.loads(line)["custom_id"] for line in said.splitlines()],
            named,
            counts.total if counts else 0,
        )


async def test_the_openai_sdk(fleet: Fleet) -> None:
    await fleet.serve(Model())
    status, ids, named, total = await asyncio.to_thread(with_the_sdk, fleet.url, fleet.site.token)
    assert (status, total, ids) == ("completed", 20, [f"c{number}" for number in range(1, 21)])
    assert len(named) == 1


def test_a_watcher_takes_what_nobody_gives_a_sign_of() -> None:
    watch, one = Watch(10), Held("t", "ann", "other", 1, 1)
    free = Held("u", "ann", "", 1, 1)
    assert watch.free([one, free], 0) == [free]
    assert watch.free([one], 9) == []
    assert watch.free([one._replace(renewals=2)], 12) == []
    assert watch.free([one._replace(renewals=2)], 22) == [one._replace(renewals=2)]
