"""Waiting for a session and following its log, over lost connections and streams that end."""

from typing import Any

import pytest

from gateway import errors
from gateway.sdk import AsyncSluice, Session, Sluice

EVENTS = "/api/v1/sessions/01JD0000000000000000000000/events"
LOGS = "/api/v1/sessions/01JD0000000000000000000000/logs"


def _event(number: int, kind: str = "session.phase") -> str:
    told = f'{{"id":{number},"session":"x","type":"{kind}","at":"2026-01-02T03:04:05Z","data":{{}}}}'
    return f"id: {number}\nevent: {kind}\ndata: {told}\n\n"


def test_waiting_shows_each_change_and_ends_when_ready(server: Any, answers: Any) -> None:
    phases = [answers.session(phase=phase) for phase in ("queued", "queued", "starting", "ready")]
    server.answers = [answers.json(phase) for phase in phases]
    server.routes[EVENTS] = answers.stream("retry: 1000\n\n", _event(1), ": still here\n\n", _event(2))
    seen: list[str] = []
    with Sluice(server.url, "t") as client:
        session = client.sessions.get("demo")
        assert session.wait(timeout=60, on_change=lambda now: seen.append(now.phase)) is session
    assert seen == ["queued", "starting", "ready"]


def test_a_lost_stream_is_resumed(server: Any, answers: Any) -> None:
    server.answers = [answers.json(answers.session())] * 3 + [answers.json(answers.session(phase="ready"))]
    server.routes[EVENTS] = answers.stream(_event(7))
    with Sluice(server.url, "t") as client:
        client.sessions.get("demo").wait(timeout=60)
    streams = [asked for asked in server.asked if asked.path.startswith(EVENTS)]
    assert "last-event-id" not in streams[0].headers
    assert [asked.headers["last-event-id"] for asked in streams[1:]] == ["7"] * (len(streams) - 1)


async def test_without_a_stream_it_polls(server: Any, answers: Any) -> None:
    server.answers = [answers.json(answers.session())] * 3 + [answers.json(answers.session(phase="running"))]
    server.routes[EVENTS] = answers.hang_up
    async with AsyncSluice(server.url, "t") as client:
        session = await client.sessions.get("demo")
        assert (await session.wait(timeout=60)).phase == "running"


def test_a_failed_session_speaks(server: Any, answers: Any) -> None:
    server.answers = [
        answers.json(answers.session(phase="failed", ended=True, reason="time_limit", message="Too slow."))
    ]
    with Sluice(server.url, "t") as client:
        session = client.sessions.get("demo")
        with pytest.raises(errors.SessionFailed, match=r"session demo failed: Too slow\.") as caught:
            session.wait()
        assert caught.value.details["reason"] == "time_limit"
        with pytest.raises(errors.SessionFailed):
            session.wait("ended")


@pytest.mark.parametrize(("phase", "until"), [("stopped", "ended"), ("succeeded", "ended"), ("succeeded", "ready")])
def test_ends_that_were_wished_for(phase: str, until: Any, server: Any, answers: Any) -> None:
    server.answers = [answers.json(answers.session(phase=phase, ended=True))]
    with Sluice(server.url, "t") as client:
        assert client.sessions.get("demo").wait(until).phase == phase


def test_being_stopped_is_not_being_ready(server: Any, answers: Any) -> None:
    server.answers = [answers.json(answers.session(phase="stopped", ended=True))]
    with Sluice(server.url, "t") as client, pytest.raises(errors.SessionFailed, match="was stopped"):
        client.sessions.get("demo").wait()


def test_time_runs_out(server: Any, answers: Any) -> None:
    server.answers = [answers.json(answers.session(reason="Resources"))]
    server.routes[EVENTS] = answers.stream(": quiet\n\n")
    with Sluice(server.url, "t") as client:
        session = client.sessions.get("demo")
        with pytest.raises(errors.TimedOut, match=r"it is queued \(Resources\)"):
            session.wait(timeout=0.3)


def test_a_deleted_session_ends_the_wait(server: Any, answers: Any) -> None:
    gone = answers.problem(404, "session_not_found", "there is no session 'demo'")
    server.answers = [answers.json(answers.session()), gone]
    with Sluice(server.url, "t") as client:
        session = client.sessions.get("demo")
        with pytest.raises(errors.SessionNotFound):
            session.wait(timeout=60)


def _chunk(answers: Any, text: str, offset: int, size: int, file: str = "service-1.log") -> Any:
    return answers.json({"file": file, "offset": offset, "next": offset + len(text), "size": size, "text": text})


def _logs(server: Any, *chunks: Any) -> None:
    left = list(chunks)

    def next_one(handler: Any) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    server.routes[LOGS] = next_one


def _text(session: Session, **options: Any) -> str:
    return "".join(session.logs(**options))


def test_a_log_is_read_to_its_end(server: Any, answers: Any) -> None:
    server.answers = [answers.json(answers.session())]
    _logs(server, _chunk(answers, "one\n", 0, 8), _chunk(answers, "two\n", 4, 8))
    with Sluice(server.url, "t") as client:
        assert _text(client.sessions.get("demo")) == "one\ntwo\n"


def test_the_last_lines(server: Any, answers: Any) -> None:
    server.answers = [answers.json(answers.session())]
    _logs(server, _chunk(answers, "b\nc\nd\n", 100, 106))
    with Sluice(server.url, "t") as client:
        assert _text(client.sessions.get("demo"), tail=2) == "c\nd\n"
    assert "offset=-800" in server.asked[-1].path


def test_following_outlives_lost_answers_and_a_new_attempt(server: Any, answers: Any) -> None:
    server.answers = [answers.json(answers.session())] * 3 + [
        answers.json(answers.session(phase="stopped", ended=True))
    ]
    _logs(
        server,
        _chunk(answers, "", 0, 0),
        _chunk(answers, "first\n", 0, 6),
        answers.hang_up,
        _chunk(answers, "", 6, 3, "service-2.log"),
        _chunk(answers, "new\n", 0, 4, "service-2.log"),
        _chunk(answers, "", 4, 4, "service-2.log"),
    )
    with Sluice(server.url, "t") as client:
        assert _text(client.sessions.get("demo"), follow=True) == "first\nnew\n"


def test_events_of_an_ended_session(server: Any, answers: Any) -> None:
    server.answers = [answers.json(answers.session(phase="stopped", ended=True))]
    server.routes[EVENTS] = answers.stream(_event(1), _event(2))
    with Sluice(server.url, "t") as client:
        session = client.sessions.get("demo")
        assert [event.id for event in session.events(follow=True)] == [1, 2]


def test_an_error_in_a_stream_is_raised(server: Any, answers: Any) -> None:
    told = '{"code":"forbidden","detail":"no more","status":403}'
    server.routes["/api/v1/events"] = answers.stream(_event(1), f"event: error\ndata: {told}\n\n")
    with Sluice(server.url, "t") as client, pytest.raises(errors.Forbidden, match="no more"):
        list(client.events(after=0))
