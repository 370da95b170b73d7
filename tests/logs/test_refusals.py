"""What the monitoring and logs services refuse is written down as elsewhere."""

import asyncio
from pathlib import Path

import httpx

from gateway.core.context import Gateway
from gateway.identity.opening import open_callers
from gateway.model.audit import AuditQuery
from gateway.model.principal import LOCAL_ADMIN
from gateway.store import audit
from gateway.web.app import Web, background
from gateway.web.serving import running
from logs import app as logs
from monitoring import app as monitoring
from tests.people import a_person, a_project
from tests.services import a_site


async def until_refused(gateway: Gateway, count: int) -> list[str]:
    """What was wanted of the refusals that are written down, once there are so many."""
    query = AuditQuery(limit=500, decision="deny")
    async with asyncio.timeout(60):
        while True:
            rows, _ = await gateway.db.read(audit.find, LOCAL_ADMIN, query)
            if len(rows) >= count:
                return [str(row.details.get("wanted")) for row in rows]
            await gateway.news.wait(0.05)


async def test_who_shows_nothing_or_something_wrong_is_written_down(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        web = Web([logs.part(site.gateway), monitoring.part(site.gateway)], open_callers(site.gateway))
        await a_project(site, "alpha")
        ben = await a_person(site, "ben", {"alpha": "member"})
        session = await site.create("count", name="mine")
        async with background("witness", site.gateway.witness.run), running(web) as url:
            async with httpx.AsyncClient(base_url=url, timeout=60) as http:
                wrong = {"Authorization": "Bearer wrong"}
                assert (await http.get(f"/logs/sessions/{session.id}")).status_code == 401
                assert (await http.get("/monitoring/metrics", headers=wrong)).status_code == 401
                assert (await http.get(f"/logs/sessions/{session.id}", headers=ben.auth)).status_code == 404
                large = await http.post("/logs/sessions/x", headers=ben.auth, content=b" " * (1 << 15))
                assert (large.status_code, large.json()["code"]) == (413, "too_large")
            wanted = await until_refused(site.gateway, 2)
        assert set(wanted) == {f"GET /logs/sessions/{session.id}", "GET /monitoring/metrics"}
