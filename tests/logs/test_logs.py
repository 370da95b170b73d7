"""The logs service over real HTTP."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.web.serving import running
from logs.app import app
from tests.services import Site, a_site, reconciling


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with a_site(tmp_path) as made, reconciling(made):
        yield made


@pytest.fixture
async def http(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        running(app(site.gateway)) as url,
        httpx.AsyncClient(base_url=f"{url}/logs/sessions", headers=site.auth, timeout=60) as client,
    ):
        yield client


async def test_a_log_is_read_from_its_end_and_followed_to_the_end_of_its_session(
    http: httpx.AsyncClient, site: Site
) -> None:
    session = await site.create("count", name="l")
    log = site.log(session)
    log.write_bytes(b"x" * 70_000 + "grüße\n".encode())
    tail = (await http.get("/l", params={"offset": -8})).json()
    assert (tail["text"], tail["size"]) == ("grüße\n", 70_008)
    assert len((await http.get("/l")).json()["text"].encode()) == 65_536
    site.log(session, "job").write_text("the agent\n")
    assert (await http.get("/l", params={"file": "job"})).json()["text"] == "the agent\n"
    job_id = await site.job_id(session.id)
    site.slurm.start(job_id)
    site.slurm.finish(job_id)
    followed = await http.get("/l", params={"follow": "true", "offset": -8}, headers={"Accept": "*/*"})
    assert followed.text == "grüße\n"


async def test_nobody_reads_without_the_token_or_what_is_not_there(http: httpx.AsyncClient) -> None:
    assert (await http.get("/none")).json()["code"] == "session_not_found"
    assert (await http.get("/none", params={"follow": "true"})).status_code == 404
    del http.headers["Authorization"]
    assert (await http.get("/none")).status_code == 401
