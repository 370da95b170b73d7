"""What the API shows of a session is the same whether it comes from its row or from the session itself."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.model.api import SessionView
from gateway.model.job import JobState
from gateway.model.jobspec import HttpProbe
from gateway.model.plan import PlannedService
from gateway.model.resources import Resources
from gateway.model.session import Condition, Phase, Session
from gateway.store import sessions, views
from gateway.store.database import Database

Build = Callable[..., Session]
THEN = datetime(2026, 1, 2, 5, 30, 1, 204, tzinfo=UTC)
SERVICE = PlannedService(protocol="openai", model="glm-é", probe=HttpProbe(path="/health"))
PLANS: dict[str, dict[str, Any]] = {
    "as little as can be": {},
    "a service": {"kind": "service", "service": SERVICE, "labels": {"team": "ü", "run": '"7"'}},
    "a page": {"kind": "service", "service": PlannedService(probe=HttpProbe(path="/"))},
    "parameters": {"parameters": {"a": 1, "b": 1.5, "c": None, "d": "\u2028", "e": True}},
    "resources": {
        "resources": Resources.model_validate(
            {"nodes": 2, "cpus": 4, "memory": "8G", "time": "2h", "gpus": {"count": 2, "type": "a100"}}
        )
    },
}
STATES: dict[str, dict[str, Any]] = {
    "new": {},
    "runs": {"phase": Phase.READY, "ready_at": THEN, "reason": "", "stop_requested_at": THEN},
    "ended": {"phase": Phase.FAILED, "ended_at": THEN, "reason": "failed", "message": 'it said "no"\n\x1b'},
    "not known": {"conditions": {"SchedulerReachable": Condition(status=False, message="away", since=THEN)}},
}
JOB = {
    "job_id": 7_000_000_000,
    "state": JobState.COMPLETED,
    "nodes": "n[1-2]",
    "exit_code": 0,
    "signal": 9,
    "position": 3,
    "time_limit": 120,
    "submitted_at": THEN,
    "started_at": datetime(2026, 1, 2, tzinfo=UTC),
}


@pytest.mark.parametrize("plan", PLANS)
async def test_a_session_is_shown_the_same_from_its_row(database: Database, build: Build, plan: str) -> None:
    made = []
    for number, (changes, job) in enumerate((changes, job) for changes in STATES.values() for job in ({}, JOB)):
        session = build(number)
        changed = {"plan": session.plan.model_copy(update=PLANS[plan]), "job": session.job.model_copy(update=job)}
        made.append(session.model_copy(update={**changes, **changed, "version": number + 1}))
        await database.write(sessions.add, made[-1])
    found = await database.read(views.bodies, [session.id for session in made])
    assert {key: version for key, (version, _) in found.items()} == {session.id: session.version for session in made}
    for session in made:
        shown = SessionView.model_validate_json(found[session.id][1])
        assert shown == views.view(session)
        assert shown.model_dump_json() == views.view(session).model_dump_json()
        assert set(SessionView.model_fields) == set(
            SessionView.model_validate_json(found[session.id][1]).model_fields_set
        )
    assert await database.read(views.bodies, ["01JD" + "9" * 22]) == {}
