"""A batch while what works on it is killed: real processes of the client service, on a database of each kind."""

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx

from gateway.store import tasks
from tests.client.fleet import Fleet, a_fleet
from tests.client.test_batches import Body, Model, lines
from tests.waiting import until_so

LINES = 600
LEASE = 2


@asynccontextmanager
async def client_service(fleet: Fleet, name: str, database: str) -> AsyncIterator[tuple[Process, str]]:
    """The process, and its address once it serves."""
    config, log = fleet.folder / f"{name}.toml", fleet.folder / f"{name}.log"
    config.write_text(
        f'state_dir = "{fleet.folder}/state"\ndatabase_url = "{database}"\n[clusters.c]\nunix_user = "nobody"\n'
        f"[tasks]\nlease_seconds = {LEASE}\n"
    )
    environ = {**os.environ, "SLUICE_CONFIG": str(config)}
    command = [sys.executable, "-m", "gateway.cli.main", "serve", "client", "--port", "0"]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, env=environ, stdin=DEVNULL, stderr=out, stdout=out)
    try:
        yield process, await until_serving(log, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until_serving(log: Path, process: Process) -> str:
    def port() -> re.Match[str] | None:
        assert process.returncode is None, log.read_text()
        return re.search(r'"port": (\d+).*"event": "serving"', log.read_text())

    found = await until_so(port, what="the client service serves")
    assert found is not None
    return f"http://127.0.0.1:{found[1]}"


async def until(ask: Callable[[], Awaitable[httpx.Response]], reached: Callable[[Body], bool]) -> Body:
    """The service may be busy, or on its way down."""

    async def told() -> Body:
        with suppress(httpx.TransportError):
            found: Body = (await ask()).json()
            return found
        return {}

    return await until_so(told, reached)


def a_client(url: str, fleet: Fleet) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"{url}/v1", headers=fleet.site.auth, timeout=60)


async def test_no_line_is_lost_or_doubled_when_a_replica_and_the_client_service_are_killed(
    tmp_path: Path, database_url: str
) -> None:
    held: list[str] = []

    def half(prompt: str, _times: int) -> int:
        """After the half of it the models hold their answers back, once."""
        if not held and sum(len(model.asked) for model in models) >= LINES // 2:
            held.append(prompt)
            for model in models:
                model.free.clear()
        return 200

    async with a_fleet(tmp_path, database=database_url, works=False) as fleet:
        models = Model(half), Model(half)
        session = await fleet.serve(*models)
        async with client_service(fleet, "one", database_url) as (one, url):
            async with a_client(url, fleet) as http:
                given = {"file": ("in.jsonl", lines(LINES))}
                file = (await http.post("/files", files=given, data={"purpose": "batch"})).json()
                wanted = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
                batch = (await http.post("/batches", json=wanted)).json()["id"]
                await until(
                    lambda: http.get(f"/batches/{batch}"),
                    lambda found: found.get("request_counts", {}).get("completed", 0) >= LINES // 4,
                )
            await until_so(lambda: held, what="half of it was asked")
            (before,) = await fleet.site.gateway.db.read(tasks.live)
            async with client_service(fleet, "two", database_url) as (_, other):
                one.send_signal(signal.SIGKILL)
                await one.wait()
                asked = sum(len(model.asked) for model in models)
                for model in models:
                    model.free.set()
                await fleet.drop(session, 1)
                async with a_client(other, fleet) as http:
                    done = await until(
                        lambda: http.get(f"/batches/{batch}"), lambda found: found.get("status") == "completed"
                    )
                    said = (await http.get(f"/files/{done['output_file_id']}/content")).text
    found = [json.loads(line) for line in said.splitlines()]
    assert [line["custom_id"] for line in found] == [f"c{number}" for number in range(1, LINES + 1)]
    texts = [line["response"]["body"]["choices"][0]["text"] for line in found]
    assert texts == [f"p{number}"[::-1] for number in range(1, LINES + 1)]
    assert done["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    assert before.holder
    assert asked < LINES, "it was killed before it was done"
    every = [prompt for model in models for prompt in model.prompts]
    assert len(set(every)) == LINES
    assert len(every) - LINES < LINES // 4, "only what was under way, or not written yet, is asked again"
