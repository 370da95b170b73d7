"""`sluice batch`: from a file of prompts to a file of answers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.sdk import Sluice
from tests.cli.conftest import Run
from tests.live import Live

HERE = Path(__file__).parents[2]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Three lines: a text, messages, and a request as OpenAI has it."""
    asked = [{"role": "user", "content": "b"}]
    given: list[Any] = [
        "a",
        {"messages": asked, "max_tokens": 3},
        {
            "custom_id": "mine",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": "c"}]},
        },
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n\n" for line in given))
    return path


def said(lines: str) -> list[tuple[str, str]]:
    found = [json.loads(line) for line in lines.splitlines()]
    return [(line["custom_id"], line["response"]["body"]["choices"][0]["message"]["content"]) for line in found]


ANSWERS = [("line-1", "You said: a"), ("line-3", "You said: b"), ("mine", "You said: c")]


def test_a_batch_from_its_prompts_to_its_answers(sluice: Run, gateway: Live, prompts: Path, tmp_path: Path) -> None:
    gateway.ready(name="demo")
    done = sluice("batch", "run", str(prompts), "--session", "demo")
    assert said(done.stdout) == ANSWERS
    assert "3 of 3" in done.stderr
    target = tmp_path / "results.jsonl"
    sluice("batch", "run", str(prompts), "--session", "demo", "-o", str(target), "--concurrency", "1")
    assert said(target.read_text()) == ANSWERS
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")]
    keyed = "batch", "run", str(prompts), "--session", "demo", "--idempotency-key", "k"
    detached = sluice(*keyed, "--detach").stdout.strip()
    again = json.loads(sluice(*keyed, "--json").stdout)
    assert (again["id"], again["phase"], again["completed"]) == (detached, "completed", 3)
    assert said(sluice("batch", "results", detached).stdout) == ANSWERS
    auth, path = {"Authorization": f"Bearer {gateway.token}"}, f"{gateway.url}/api/v1/tasks/{detached}/results"
    head, whole = httpx.head(path, headers=auth, timeout=60), httpx.get(path, headers=auth, timeout=60)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(whole.content)))
    assert next(one["id"] for one in json.loads(sluice("batch", "list", "--json").stdout)) == detached
    assert "completed" in sluice("batch", "status", detached).stdout
    assert "completed" in sluice("batch", "cancel", detached).stdout
    assert "3 of 3" in sluice("batch", "wait", detached).stderr
    sluice("batch", "delete", detached)
    sluice("batch", "results", detached, code=3)
    assert '"task.delete"' in sluice("audit", "list", "--json").stdout


def test_what_cannot_be_asked_is_refused_and_nothing_is_kept(
    sluice: Run, gateway: Live, prompts: Path, tmp_path: Path
) -> None:
    gateway.ready(name="demo")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "x"}\n{"what": 1}\nnot json\n')
    refused = sluice("batch", "run", str(bad), "--session", "demo", code=2).stderr
    assert "line 2: " in refused
    assert "line 3: " in refused
    sluice("batch", "run", str(prompts), "--session", "none", code=3)
    sluice("batch", "run", str(prompts), "--session", "demo", "--window", "10y", code=2)
    sluice("batch", "status", "batch_none", code=3)
    assert json.loads(sluice("batch", "list", "--json").stdout) == []


def test_it_goes_on_over_a_restart_of_the_gateway(sluice: Run, gateway: Live, tmp_path: Path) -> None:
    gateway.ready(name="demo")
    path = tmp_path / "many.jsonl"
    path.write_text("".join(f'"n{number}"\n' for number in range(500)))
    task = sluice("batch", "run", str(path), "--session", "demo", "--detach").stdout.strip()
    gateway.restart()
    sluice("batch", "wait", task, "-o", "out.jsonl")
    assert [text for _, text in said((tmp_path / "out.jsonl").read_text())] == [f"You said: n{n}" for n in range(500)]


@contextmanager
def a_run(words: Sequence[str], environment: Mapping[str, str | None]) -> Iterator["subprocess.Popen[str]"]:
    """The command in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.main", *words],
        env={name: value for name, value in {**os.environ, **environment}.items() if value is not None},
        cwd=HERE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until_said(process: "subprocess.Popen[str]", word: str) -> str:
    """What it said until then."""
    assert process.stderr is not None
    found = ""
    while word not in found:
        line = process.stderr.readline()
        assert line, found
        found += line
    return found


@pytest.mark.usefixtures("hears_ctrl_c")
def test_a_run_that_was_interrupted_or_killed_is_gone_on_with_and_asks_nothing_twice(
    sluice: Run, gateway: Live, environment: dict[str, str | None], prompts: Path, tmp_path: Path
) -> None:
    gateway.do(gateway.site.create("chat", name="demo"))
    job_id, target = gateway.job_id("demo"), tmp_path / "results.jsonl"
    words, known = (
        ["batch", "run", str(prompts), "--session", "demo", "-o", str(target)],
        {**environment, **gateway.env},
    )
    with a_run(words, known) as one:
        until_said(one, "session demo is")
        one.send_signal(signal.SIGINT)
        _, rest = one.communicate(timeout=120)
        assert one.returncode == 130, rest
        assert "goes on. Wait again: sluice batch wait batch_" in rest
    with a_run(words, known) as two:
        assert "was begun by an earlier run of this command" in until_said(two, "session demo is")
        two.kill()
    gateway.in_slurm(gateway.site.slurm.start, job_id)
    server = gateway.model_server
    ready = f"sluice/1 ready tcp={server.host}:{server.port} sha256={server.fingerprint}"
    gateway.in_slurm(gateway.site.slurm.announce, job_id, ready)
    assert "was begun by an earlier run of this command" in sluice(*words).stderr
    assert said(target.read_text()) == ANSWERS
    assert (len(tasks(sluice)), len(gateway.asked)) == (1, 3)
    assert "was accepted: 3 lines" in sluice(*words).stderr, "its results had been handed over"
    assert (len(tasks(sluice)), len(gateway.asked)) == (2, 6)


def tasks(sluice: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sluice("batch", "list", "--json").stdout)
    return found


def test_a_batch_that_was_lost_or_is_not_wanted_is_begun_anew(sluice: Run, gateway: Live, prompts: Path) -> None:
    gateway.do(gateway.site.create("chat", name="demo"))
    words = "batch", "run", str(prompts), "--session", "demo", "--timeout", "0.1"
    sluice(*words, code=6)
    assert "was begun by an earlier run" in sluice(*words, code=6).stderr
    assert "was accepted" in sluice(*words, "--again", code=6).stderr
    assert "was begun by an earlier run" in sluice(*words, code=6).stderr
    newest, oldest = (one["id"] for one in tasks(sluice))
    sluice("batch", "cancel", newest)
    assert "was accepted" in sluice(*words, code=6).stderr
    with Sluice(gateway.url, gateway.token) as client:  # as if another machine had cancelled it
        client.tasks.cancel(tasks(sluice)[0]["id"])
        client.tasks.wait(tasks(sluice)[0]["id"], timeout=120)
    assert "was accepted" in sluice(*words, code=6).stderr
    assert len(tasks(sluice)) == 4
    assert sluice(*words, "--endpoint", "/v1/chat/completions", code=6).stderr.count("was accepted") == 1
    for one in [*tasks(sluice), {"id": oldest}]:
        sluice("batch", "cancel", one["id"])
