"""The commands that ask something of a session that runs, or has: scale, update, extend, resume."""

import json
from typing import Any

import pytest


def test_more_jobs_are_asked_for_and_shown(gateway: Any, sluice: Any) -> None:
    gateway.ready("chat", name="many")
    assert "is served by 1..3 jobs" in sluice("scale", "many", "1..3").stdout
    assert json.loads(sluice("show", "many", "--json").stdout)["replicas"] == {"min": 1, "max": 3}
    assert "1..3" in sluice("show", "many").stdout
    assert "not stopped for being idle in the next 90 minutes" in sluice("extend", "many", "--for", "90m").stdout


def test_an_update_is_a_further_job(gateway: Any, sluice: Any) -> None:
    gateway.ready("chat", name="one")
    sluice("update", "one", "-p", "alias=other")
    assert "successor" in sluice("show", "one").stdout


def test_an_ended_session_is_resumed(gateway: Any, sluice: Any) -> None:
    gateway.ready("chat", name="back")
    assert "has not ended" in sluice("resume", "back", code=7).stderr
    sluice("stop", "back", "--wait", "--timeout", "60")
    assert "is started again" in sluice("resume", "back").stdout
    found = json.loads(sluice("show", "back", "--json").stdout)
    assert (found["ended"], found["job"]["attempt"]) == (False, 2)


@pytest.mark.parametrize("words", ["two", "3..x", "..2"])
def test_a_number_of_jobs_is_a_number_or_two(sluice: Any, words: str) -> None:
    assert "neither a number nor MIN..MAX" in sluice("scale", "any", words, code=2).stderr
