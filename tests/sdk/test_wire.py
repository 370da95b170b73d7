"""What both clients share, without a network."""

import pytest

from gateway.sdk import defaults, generate, wire


def test_events_are_put_together_from_lines() -> None:
    lines = EVENTS.splitlines()
    parser = wire.EventLines()
    found = [event for line in lines for event in parser.feed(line)]
    assert found == [
        wire.ServerEvent("3", "session.phase", "one\ntwo"),
        None,
        wire.ServerEvent("3", "message", "three"),
    ]


EVENTS = """\
retry: 1000

id: 3
event: session.phase
data: one
data:two

: still here

data: three

event: nothing

"""


@pytest.mark.parametrize(
    ("header", "seconds"), [("2", 2.0), ("0.5", 0.5), ("-1", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)]
)
def test_retry_after(header: str, seconds: float) -> None:
    assert wire.retry_after({"retry-after": header}) == seconds
    assert wire.retry_after({}) == 0.0


def test_the_environment_says_where_and_who(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_TOKEN", "given")
    monkeypatch.setenv("SLUICE_URL", "http://elsewhere:1")
    assert (defaults.token("http://elsewhere:1"), defaults.url()) == ("given", "http://elsewhere:1")


def test_the_token_of_this_machine_is_sent_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLUICE_TOKEN", raising=False)
    assert defaults.token("https://elsewhere.example") is None
    assert not defaults.is_local("http://127.0.0.1.example:8000")
    assert defaults.is_local("http://[::1]:8000")


@pytest.mark.parametrize("name", generate.names())
def test_the_blocking_clients_are_made_from_the_others(name: str) -> None:
    made = generate.TARGET / name
    assert made.read_text() == generate.generate(name), "run: python gateway/sdk/generate.py"
