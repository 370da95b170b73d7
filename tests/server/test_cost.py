"""What reading costs Slurm: nothing; and where it is told what the rest costs."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.cost import Cost, Distribution
from gateway.server.app import app
from gateway.web.serving import running
from tests.services import Site, a_site

READS = ("sessions", "sessions/one", "sessions/one/script", "clusters", "clusters/c", "health/ready", "metrics")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with a_site(tmp_path, poll_seconds=3600, busy_poll_seconds=3600) as made:
        yield made


@pytest.fixture
async def api(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        running(app(site.gateway)) as url,
        httpx.AsyncClient(base_url=f"{url}/api/v1/", headers=site.auth, timeout=60) as client,
    ):
        yield client


async def asked(api: httpx.AsyncClient) -> dict[tuple[str, str], float]:
    """What the server says that it asked, by call and outcome."""
    text = (await api.get("metrics")).text
    return {
        (sample.labels["call"], sample.labels["outcome"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "sluice_slurm_rpcs_total"
    }


async def test_hundreds_of_reads_ask_slurm_nothing(api: httpx.AsyncClient, site: Site) -> None:
    async def looked() -> bool:
        return site.slurm.calls["inventory"] > 0

    await site.until(looked, "the first turn is over")
    await site.create(name="one")
    await site.job_id("one")
    before, told = site.slurm.calls.copy(), await asked(api)
    for _ in range(50):
        for path in READS:
            assert (await api.get(path)).status_code == 200
    assert site.slurm.calls == before
    assert await asked(api) == told
    assert told["submit", "ok"] == 1


async def test_what_is_not_answered_is_counted_apart(api: httpx.AsyncClient, site: Site) -> None:
    async def looked() -> bool:
        return site.slurm.calls["inventory"] > 0

    await site.until(looked, "the first turn is over")
    site.slurm.faults.unavailable = True
    await site.create(name="one")

    async def tried() -> bool:
        return ("submit", "unanswered") in await asked(api)

    await site.until(tried, "a submit was tried")


def test_values_are_counted_in_the_bucket_that_holds_them() -> None:
    values = Distribution((1.0, 10.0))
    for value in (0.5, 1.0, 5.0, 11.0):
        values.add(value)
    assert list(values.buckets()) == [("1.0", 2), ("10.0", 3), ("+Inf", 4)]
    assert values.total == 17.5


def test_bytes_are_added_up_for_the_look_that_got_them() -> None:
    cost = Cost()
    cost.asked("squeue", "ok", 7)
    with cost.tally() as tally:
        cost.asked("squeue", "ok", 20, times=2)
        cost.asked("sacct", "refused", 1)
    cost.asked("sbatch", "ok", 9)
    assert tally.received == 21
    assert cost.calls == {("squeue", "ok"): 3, ("sacct", "refused"): 1, ("sbatch", "ok"): 1}
