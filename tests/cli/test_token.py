"""`sluice token`: made, printed once, listed with its last use, revoked."""

import json
from typing import Any

from tests.live import Live
from tests.waiting import until


def test_a_token_is_printed_once_and_listed_with_its_last_use(sluice: Any, gateway: Live) -> None:
    del gateway
    made = sluice("token", "create", "nightly", "--scope", "sessions:read", "--days", "2")
    text = made.stdout.strip()
    assert "Not shown again." in made.stderr
    row = _row(sluice("token", "list").stdout)
    assert ("sessions:read" in row, "never" in row) == (True, True), row
    listed = sluice("token", "list", "--json").stdout
    assert text[-43:] not in listed, "its secret, in which there may be any letter of an address"
    assert [view["last_used_at"] for view in json.loads(listed) if view["name"] == "nightly"] == [None]
    sluice("list", env={"SLUICE_TOKEN": text})
    until(lambda: "never" not in _row(sluice("token", "list").stdout), what="the token was used")
    [view] = [one for one in json.loads(sluice("token", "list", "--json").stdout) if one["name"] == "nightly"]
    assert view["last_used_at"].startswith("20")
    assert "is revoked" in sluice("token", "revoke", "nightly").stderr
    assert "was revoked" in sluice("list", env={"SLUICE_TOKEN": text}, code=4).stderr
    assert "nightly" not in sluice("token", "list").stdout
    assert "revoked" in _row(sluice("token", "list", "--all").stdout)


def _row(table: str) -> str:
    """The token's line."""
    return next(line for line in table.splitlines() if "nightly" in line)
