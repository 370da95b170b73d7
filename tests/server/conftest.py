"""A running server over a gateway on real parts before the in-memory Slurm."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.server.app import app
from gateway.web.serving import running
from tests.services import Site, a_site
from tests.town import Town, a_town


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with a_site(tmp_path) as made:
        yield made


@pytest.fixture
async def api(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        running(app(site.gateway)) as url,
        httpx.AsyncClient(base_url=f"{url}/api/v1", headers=site.auth, timeout=60) as client,
    ):
        yield client


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with a_town(tmp_path) as made:
        yield made
