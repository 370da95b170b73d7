"""Secrets: a staged file or a push, handed to the program, and nowhere else to be found."""

import json
from pathlib import Path
from typing import Any

SECRET = 'hush, it\'s a "secret"\nof $two lines'


def stage(agent: Any, values: Any, mode: int = 0o600) -> Path:
    agent.session.mkdir(mode=0o700)
    path: Path = agent.session / "secrets.json"
    path.write_text(json.dumps(values))
    path.chmod(mode)
    return path


def seen(agent: Any) -> str:
    value: str = json.loads(agent.get("/about")[1])["env"]["TOKEN"]
    return value


def test_a_staged_secret_reaches_the_program_and_its_file_is_gone(agent: Any) -> None:
    path = stage(agent, {"TOKEN": SECRET, "NOT_ASKED_FOR": "x"})
    agent.start(agent.spec(secrets=["TOKEN"]))
    assert seen(agent) == SECRET
    assert not path.exists()
    assert "NOT_ASKED_FOR" not in json.loads(agent.get("/about")[1])["env"]
    agent.stop()
    agent.ends()
    written = "".join(file.read_text() for file in agent.session.iterdir() if file.is_file())
    assert "hush" not in written
    assert "hush" not in "".join(agent.comments)


def test_a_secret_that_others_could_read_is_not_used(agent: Any) -> None:
    path = stage(agent, {"TOKEN": SECRET}, mode=0o644)
    agent.start(agent.spec(secrets=["TOKEN"]))
    assert agent.ends() == 72
    assert agent.comments == ["sluice/1 ended reason=start_failed code=72"]
    assert not path.exists()
    assert "hush" not in agent.log


def test_a_broken_file_is_told_without_its_content(agent: Any) -> None:
    stage(agent, "hush")
    agent.start(agent.spec(secrets=["TOKEN"]))
    assert agent.ends() == 72
    assert "hush" not in agent.log


def test_a_secret_may_be_pushed_before_the_start(agent: Any) -> None:
    agent.start(agent.spec(secrets=["TOKEN", "OTHER"]))
    assert agent.ask("status", word="secrets")["phase"] == "secrets"
    assert agent.ask("secrets", word="secrets", values={"OTHER": 5})["ok"] is False
    assert agent.ask("secrets", word="secrets", values={"OTHER": "o"}) == {"ok": True, "missing": ["TOKEN"]}
    assert agent.ask("secrets", word="secrets", values={"TOKEN": SECRET}) == {"ok": True, "missing": []}
    assert seen(agent) == SECRET
    late = agent.ask("secrets", values={"TOKEN": "late"})
    assert "started already" in late["error"]


def test_no_service_is_relayed_while_secrets_are_awaited(agent: Any) -> None:
    agent.start(agent.spec(secrets=["TOKEN"]))
    with agent.connect(word="secrets") as sock:
        assert b"x-sluice-agent: busy" in sock.recv(4096)
    agent.stop()
    assert agent.ends() == 0


def test_secrets_that_never_come_end_the_job(agent: Any) -> None:
    agent.start(agent.spec(secrets=["TOKEN"], secrets_timeout=1))
    assert agent.ends() == 72
    assert "did not come within 1 s: TOKEN" in agent.log


def test_a_batch_job_takes_a_push_too(agent: Any) -> None:
    agent.start(
        agent.spec(service=None, secrets=["TOKEN"], container={"script": 'printf %s "$TOKEN"; test -n "$TOKEN"'})
    )
    assert agent.ask("secrets", word="secrets", values={"TOKEN": SECRET})["ok"]
    assert agent.ends() == 0
    assert agent.output == SECRET


def test_a_job_that_may_be_requeued_keeps_the_file_until_it_has_ended_for_good(agent: Any) -> None:
    path = stage(agent, {"TOKEN": SECRET})
    agent.start(agent.spec(secrets=["TOKEN"], requeue=True))
    assert seen(agent) == SECRET
    agent.stop()  # as `scontrol requeue` does
    agent.ends()
    assert path.stat().st_mode & 0o777 == 0o600
    agent.comments_file.unlink()
    agent.start(agent.spec(secrets=["TOKEN"], requeue=True), SLURM_RESTART_COUNT="1")
    assert seen(agent) == SECRET
    with agent.connect() as sock:
        sock.sendall(b"GET /exit?code=3 HTTP/1.1\r\nhost: x\r\n\r\n")
        agent.ends()
    assert not path.exists()
