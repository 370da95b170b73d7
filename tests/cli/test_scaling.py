"""The commands that ask something of a session that runs, or has: scale, update, extend, resume."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.cli import output


def test_more_jobs_are_asked_for_and_shown(gateway: Any, sluice: Any) -> None:
    gateway.ready("chat", name="many")
    assert "is served by 1..3 jobs" in sluice("scale", "many", "1..3").stdout
    assert json.loads(sluice("show", "many", "--json").stdout)["replicas"] == {"min": 1, "max": 3}
    assert "1..3" in sluice("show", "many").stdout


def test_until_when_a_session_is_kept_is_told(gateway: Any, sluice: Any) -> None:
    gateway.ready("chat", name="kept")
    assert json.loads(sluice("show", "kept", "--json").stdout)["keep_until"] is None
    assert "\nkept:" not in sluice("show", "kept").stdout
    began = datetime.now(UTC)
    long = json.loads(sluice("extend", "kept", "--for", "90m", "--json").stdout)["keep_until"]
    until = datetime.fromisoformat(long)
    assert began + timedelta(minutes=90) <= until <= datetime.now(UTC) + timedelta(minutes=90)
    assert json.loads(sluice("show", "kept", "--json").stdout)["keep_until"] == long
    said = output.local(until)
    assert f"kept is not stopped for being idle before {said}." in sluice("extend", "kept", "--for", "2m").stdout
    assert re.search(rf"^kept: +until {said}$", sluice("show", "kept").stdout, re.MULTILINE)


def test_an_update_is_a_further_job(gateway: Any, sluice: Any) -> None:
    gateway.ready("chat", name="one")
    sluice("update", "one", "-p", "alias=other")
    assert "successor" in sluice("show", "one").stdout


def test_an_ended_session_is_resumed(gateway: Any, sluice: Any) -> None:
    gateway.ready("chat", name="back")
    assert "has not ended" in sluice("resume", "back", code=7).stderr
    sluice("stop", "back", "--wait", "--timeout", "120")
    assert "is started again" in sluice("resume", "back").stdout
    found = json.loads(sluice("show", "back", "--json").stdout)
    assert (found["ended"], found["job"]["attempt"]) == (False, 2)


@pytest.mark.parametrize("words", ["two", "3..x", "..2"])
def test_a_number_of_jobs_is_a_number_or_two(sluice: Any, words: str) -> None:
    assert "neither a number nor MIN..MAX" in sluice("scale", "any", words, code=2).stderr


@pytest.mark.parametrize("span", ["35s", "60d"])
def test_an_extension_has_a_sensible_length(sluice: Any, span: str) -> None:
    assert "between one minute and 30 days" in sluice("extend", "one", "--for", span, code=2).stderr
