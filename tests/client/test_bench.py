"""Benchmarks before the real front: every request is counted, in order, with its kind of error."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.client.app import parts
from gateway.errors import Conflict, Invalid, SessionNotFound, Unauthenticated, Unavailable
from gateway.identity.opening import open_callers
from gateway.model.bench import Load, Report, Workload
from gateway.sdk.bench import page, prompts, store
from gateway.sdk.bench.compare import compare
from gateway.sdk.bench.run import Now, Plan, measure, words_for
from gateway.server.app import part
from gateway.web.app import Web
from gateway.web.serving import running
from tests.ports import free_port
from tests.services import STREAM_HEAD, Asked, Handler, Site, a_node, a_site, answer, chunk, read_request

GAP = 0.05


class Server:
    """Streams as many pieces as tokens are asked for, `GAP` apart, two tokens in each; a word is a token to it."""

    def __init__(self, *, usage: bool = True) -> None:
        self.asked: list[Asked] = []
        self.usage = usage
        self.every: dict[int, str] = {}
        self.silent = asyncio.Event()
        self.hold = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await read_request(reader)) is not None:
            self.asked.append(asked)
            kind = self.every.get(len(self.asked), "")
            if kind == "500":
                writer.write(answer({"error": {"message": "no", "type": "server_error", "code": "boom"}}, "500 Oh"))
            elif kind == "not a stream":
                writer.write(answer({"choices": []}))
            else:
                writer.write(STREAM_HEAD + chunk(b": a comment\n\n") + _event({"role": "assistant", "content": ""}))
                await self.speak(asked.json, writer, kind)
                if kind == "broke off":
                    return
            await writer.drain()

    async def speak(self, asked: dict[str, Any], writer: asyncio.StreamWriter, kind: str) -> None:
        pieces = 0 if kind == "no text" else asked.get("max_tokens", 2) // 2 or 1
        for number in range(pieces):
            writer.write(_event({"content": f"w{number} "}))
            await writer.drain()
            if kind == "broke off":
                return
            if self.hold and asked.get("max_tokens", 0) > 2:
                await self.silent.wait()
            await until_the_next_piece()
        if self.usage:
            words = len(str(asked["messages"][0]["content"]).split()) + 10
            told = {"prompt_tokens": words, "completion_tokens": 2 * pieces, "total_tokens": words + 2 * pieces}
            writer.write(chunk(b"data: " + json.dumps({"choices": [], "usage": told}).encode() + b"\n\n"))
        if kind == "said so":
            writer.write(chunk(b'data: {"error": {"message": "no", "code": "too_hot"}}\n\n'))
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def until_the_next_piece() -> None:
    """What the model takes for it."""
    await asyncio.sleep(GAP)


def _event(delta: dict[str, Any]) -> bytes:
    told = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    return chunk(b"data: " + json.dumps(told).encode() + b"\n\n")


@dataclass
class Whole:
    """A whole gateway, and nodes that serve."""

    site: Site
    url: str
    folder: Path
    stack: AsyncExitStack

    async def serve(self, service: Handler) -> str:
        """The id of the session `demo`, which this answers for."""
        node = await self.stack.enter_async_context(a_node(self.folder, self.site.pki.ca_pem, service))
        return (await self.site.ready(node, name="demo")).id

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not done():
                await self.site.gateway.news.wait(0.01)


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Whole]:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(a_site(tmp_path))
        web = Web([part(site.gateway), *parts(site.gateway)], open_callers(site.gateway))
        url = await stack.enter_async_context(running(web, grace=2))
        yield Whole(site, url, tmp_path, stack)


def closed(*numbers: int) -> list[Load]:
    return [Load(kind="closed", concurrency=number) for number in numbers]


def work(**values: Any) -> Workload:
    return Workload.model_validate({"prompt_tokens": 40, "output_tokens": 8, "requests": 6, **values})


async def run(plane: Any, plan: Plan, **values: Any) -> Any:
    return await measure(plane.url, plane.site.token, plan, **values)


async def test_a_sweep_counts_what_was_asked_and_answered(plane: Any) -> None:
    server = Server()
    session = await plane.serve(server)
    done = await run(plane, Plan("demo", closed(1, 3), work(slo={"e2e": 60.0}), warmup=2))
    report: Report = done.report
    assert [stage.load.label for stage in report.stages] == ["1 at once", "3 at once"]
    # Three that ask how it counts, then for each load two that warm up and six that count.
    assert len(server.asked) == 3 + 2 * (2 + 6)
    for stage, samples in zip(report.stages, done.samples, strict=True):
        figures = stage.figures
        assert (figures.requests, figures.succeeded, figures.failed, figures.good) == (6, 6, 0, 6)
        assert (figures.output_tokens, figures.tokens_by) == (6 * 8, "usage")
        assert figures.prompt_tokens == 6 * 40  # words were counted until they made the tokens that were asked for
        assert figures.itl is not None
        assert figures.itl.count == 6 * 3
        assert figures.itl.p50 >= GAP / 10  # what is late may come close to what follows it
        assert figures.most_in_flight <= (stage.load.concurrency or 0)
        assert all(sample.due <= sample.sent <= (sample.first or 0) <= sample.end for sample in samples)
        assert all(sample.e2e >= (sample.ttft or 0) + GAP / 2 for sample in samples)
        assert (stage.warmup, stage.warmup_failed, stage.replicas) == (2, 0, 1)
    assert {asked.json["ignore_eos"] for asked in server.asked if "ignore_eos" in asked.json} <= {True}
    assert len({json.dumps(asked.json["messages"]) for asked in server.asked}) == len(server.asked)
    around = report.environment
    assert (around.session, around.recipe, around.model) == (session, "chat", "tiny")
    assert around.image_sha256 == "0" * 64


async def test_an_open_loop_does_not_wait_for_answers(plane: Any) -> None:
    server = Server()
    server.hold = True
    await plane.serve(server)
    now = Now()
    load = Load(kind="open", rate=200.0)
    task = asyncio.create_task(run(plane, Plan("demo", [load], work(requests=12), warmup=0), now=now))
    server.silent.set()  # the probe asks for 8 tokens, too, and is let go on
    await plane.until(lambda: now.load is not None)
    server.silent.clear()
    await plane.until(lambda: now.tally.in_flight + len(now.tally.samples) == 12)
    assert now.tally.in_flight > 1
    server.silent.set()
    figures = (await task).report.stages[0].figures
    assert (figures.requests, figures.succeeded) == (12, 12)
    assert figures.most_in_flight > 1
    assert figures.lag is not None
    assert figures.lag.p50 >= 0


async def test_the_same_seed_asks_the_same_at_the_same_moments(plane: Any) -> None:
    server = Server()
    await plane.serve(server)
    plan = Plan("demo", [Load(kind="open", rate=500.0, burstiness=0.5)], work(seed=7, requests=5), warmup=0)
    first = await run(plane, plan)
    asked = [one.body for one in server.asked]
    server.asked.clear()
    second = await run(plane, plan)
    assert sorted(asked) == sorted(one.body for one in server.asked)
    moments = [sorted(sample.due for sample in done.samples[0]) for done in (first, second)]
    assert moments[0] == moments[1]


async def test_every_error_is_counted_by_its_kind(plane: Any) -> None:
    server = Server()
    await plane.serve(server)
    kinds = ["500", "not a stream", "broke off", "no text", "said so"]
    server.every = dict(enumerate(kinds, start=4))  # after the three that ask how it counts
    done = await run(plane, Plan("demo", closed(1), work(requests=8), warmup=0))
    figures = done.report.stages[0].figures
    assert (figures.requests, figures.succeeded, figures.failed) == (8, 3, 5)
    assert figures.errors == {
        "HTTP 500 boom": 1,
        "not a stream": 1,
        "error in the stream: upstream_closed": 1,
        "no text": 1,
        "error in the stream: too_hot": 1,
    }
    assert any("5 of 8 requests failed" in text for text in page.warnings(done.report))


async def test_a_server_that_tells_no_tokens_is_counted_by_pieces(plane: Any) -> None:
    await plane.serve(Server(usage=False))
    done = await run(plane, Plan("demo", closed(2), work(requests=3)))
    figures = done.report.stages[0].figures
    assert (figures.output_tokens, figures.prompt_tokens, figures.tokens_by) == (3 * 4, 0, "pieces")
    assert any("pieces were counted" in text for text in page.warnings(done.report))


async def test_a_run_that_is_stopped_keeps_what_it_has(plane: Any) -> None:
    server = Server()
    await plane.serve(server)
    stop, now = asyncio.Event(), Now()
    plan = Plan("demo", closed(2, 4), work(requests=None, seconds=600.0), warmup=0)
    task = asyncio.create_task(run(plane, plan, now=now, stop=stop))
    await plane.until(lambda: len(now.tally.samples) >= 5)
    stop.set()
    report = (await task).report
    assert report.interrupted
    assert len(report.stages) == 1
    figures = report.stages[0].figures
    assert figures.succeeded >= 5
    assert figures.interrupted <= 2
    assert figures.failed == 0


async def test_a_request_that_takes_too_long_is_an_error(plane: Any) -> None:
    server = Server()
    await plane.serve(server)
    server.silent.set()
    server.hold = True
    now = Now()
    plan = Plan("demo", closed(1), work(requests=1), warmup=1, timeout=10.0)
    task = asyncio.create_task(run(plane, plan, now=now))
    await plane.until(lambda: now.load is not None)
    server.silent.clear()
    done = await task
    server.silent.set()
    assert done.report.stages[0].figures.errors == {"timed out": 1}
    assert done.report.stages[0].figures.succeeded == 0


async def test_what_is_refused_at_once_is_raised(plane: Any) -> None:
    server = Server()
    await plane.serve(server)
    with pytest.raises(SessionNotFound):
        await run(plane, Plan("nobody", closed(1), work()))
    with pytest.raises(Unauthenticated):
        await measure(plane.url, "wrong", Plan("demo", closed(1), work()))
    with pytest.raises(Unavailable):
        await measure(f"http://127.0.0.1:{free_port()}", "x", Plan("demo", closed(1), work()))
    batch = await plane.site.create("count", name="batch")
    with pytest.raises(Conflict, match="serves no model"):
        await run(plane, Plan(batch.name, closed(1), work()))
    assert server.asked == []


async def test_completions_and_prompts_of_a_file(plane: Any, tmp_path: Any) -> None:
    asked: list[Asked] = []

    async def complete(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (one := await read_request(reader)) is not None:
            asked.append(one)
            event = b'data: {"choices": [{"index": 0, "text": "a"}]}\n\n'
            writer.write(STREAM_HEAD + chunk(event) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    await plane.serve(complete)
    file = tmp_path / "prompts.jsonl"
    file.write_text('"first"\n{"prompt": "second", "max_tokens": 3}\n\n')
    given = prompts.read(file, "completions")
    workload = Workload(endpoint="completions", prompts=file.name, requests=4)
    done = await run(plane, Plan("demo", closed(1), workload, given, warmup=0))
    assert done.report.stages[0].figures.succeeded == 4
    assert {one.target for one in asked} == {"/v1/completions"}
    assert [(one.json["prompt"], one.json.get("max_tokens")) for one in asked][:3] == [
        ("first", None),
        ("second", 3),
        ("first", None),
    ]


async def test_a_report_is_saved_read_again_and_held_beside_another(plane: Any, tmp_path: Any) -> None:
    await plane.serve(Server())
    done = await run(plane, Plan("demo", closed(1), work(), warmup=0, label="<b>before</b> & after"))
    other = await run(plane, Plan("demo", closed(2), work(output_tokens=4), warmup=0))
    places = [store.save(one, tmp_path / name) for one, name in ((done, "a"), (other, "b"))]
    reports = [store.load(str(place)) for place in places]
    assert reports[0].stages == done.report.stages
    rows = (places[0] / store.SAMPLES).read_text().splitlines()
    assert len(rows) == 1 + 6
    assert rows[0].startswith("stage,due,sent,first,end")
    html = (places[0] / store.PAGE).read_text()
    assert "&lt;b&gt;before&lt;/b&gt; &amp; after" in html
    assert "<script" not in html
    assert "http://" not in html.replace(plane.url, "")
    assert html.count('role="img"') >= 7
    found = compare(reports)
    assert found.names == ("a", "b")
    assert ("output tokens", ("8", "4")) in found.differences
    requests = next(row for row in found.levels[0].rows if row.name == "Requests")
    assert (requests.values, requests.changes) == ((6, 6), (0.0, 0.0))
    assert "Changes from the first run" in page.of_comparison(reports)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1"),
        ("3", "neither a text nor an object"),
        ('{"messages": []}', "neither `prompt`"),
        ("\n", "no prompt"),
    ],
)
def test_a_file_of_prompts_says_which_line_is_wrong(tmp_path: Any, text: str, said: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(Invalid, match=said):
        prompts.read(file, "chat")


def test_words_follow_from_two_counts() -> None:
    assert words_for(100, 22, 10, 42, 20) == 49
    assert words_for(100, None, 10, None, 20) == 100
    assert words_for(1, 22, 10, 42, 20) == 1
