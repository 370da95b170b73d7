"""The monitoring service over real HTTP: what Prometheus gets, and what is well."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core import clusters
from gateway.model.session import Phase
from gateway.web.serving import running
from monitoring.app import app
from tests.services import Site, a_site, reconciling


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with a_site(tmp_path) as made:
        yield made


@pytest.fixture
async def http(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        running(app(site.gateway)) as url,
        httpx.AsyncClient(base_url=f"{url}/monitoring", headers=site.auth, timeout=60) as client,
    ):
        yield client


DOCS = Path(__file__).parents[2] / "docs/reference/metrics.md"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scraped(http: httpx.AsyncClient) -> Samples:
    response = await http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


async def test_sessions_clusters_and_requests_are_counted(http: httpx.AsyncClient, site: Site) -> None:
    async with reconciling(site):
        first = await site.create("count", name="a")
        await site.create("count", name="b")
        job_id = await site.job_id("a")
        await site.reaches("b", Phase.QUEUED)
        site.slurm.start(job_id)
        site.slurm.finish(job_id)
        await site.reaches(first.id, Phase.SUCCEEDED)
        await http.get("/nowhere")

        async def counted() -> bool:
            return bool((await clusters.views(site.gateway))[0].nodes)

        await site.until(counted, "the first inventory")
        samples = await scraped(http)
    assert value(samples, "sluice_sessions", cluster="c", recipe="count", phase="succeeded") == 1
    assert value(samples, "sluice_sessions", cluster="c", recipe="count", phase="queued") == 1
    assert value(samples, "sluice_cluster_reachable", cluster="c") == 1
    assert 0 <= (value(samples, "sluice_cluster_poll_age_seconds", cluster="c") or 0) < 30
    assert value(samples, "sluice_cluster_nodes", cluster="c", available="true") == 2
    assert value(samples, "sluice_cluster_gpus", cluster="c", gres="gpu", type="a100", use="free") == 8
    assert (value(samples, "sluice_events_total") or 0) >= 5
    assert (value(samples, "sluice_slurm_rpcs_total", cluster="c", call="submit", outcome="ok") or 0) == 2
    looks = value(samples, "sluice_slurm_rpcs_total", cluster="c", call="look", outcome="ok") or 0
    assert 0 < looks == value(samples, "sluice_poll_seconds_count", cluster="c")
    assert value(samples, "sluice_poll_bytes_bucket", cluster="c", le="+Inf") == looks
    assert value(samples, "sluice_poll_jobs", cluster="c") in {1, 2}
    asked = {"service": "monitoring", "method": "GET"}
    assert value(samples, "sluice_http_requests_total", **asked, route="unmatched", status="404") == 1
    assert any(name == "process_resident_memory_bytes" for name, _ in samples)
    documented = set(re.findall(r"^\| `(sluice_\w+)`", DOCS.read_text(), re.MULTILINE))
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name, _ in samples if name.startswith("sluice_")}
    of_the_client = {name for name in documented if name.startswith(("sluice_proxy_", "sluice_task"))}
    assert {name for name in shown if not name.endswith("_created")} | of_the_client == documented
    again = await scraped(http)
    assert value(again, "sluice_http_requests_total", **asked, route="/monitoring/metrics", status="200") == 1


async def test_health_tells_a_cluster_that_is_not_polled(http: httpx.AsyncClient, site: Site) -> None:
    before = await http.get("/health")
    assert (before.status_code, before.json()["checks"]["cluster c"]) == (503, "has not answered yet")
    async with reconciling(site):

        async def well() -> bool:
            return (await http.get("/health")).status_code == 200

        await site.until(well, "a poll")
        site.slurm.faults.unavailable = True
        await site.create("count")

        async def noticed() -> bool:
            return bool("does not respond" in (await http.get("/health")).json()["checks"]["cluster c"])

        await site.until(noticed, "the fault is told")


async def test_metrics_need_the_token(http: httpx.AsyncClient) -> None:
    del http.headers["Authorization"]
    for path in ("/metrics", "/health", "/openapi.json"):
        assert (await http.get(path)).status_code == 401
