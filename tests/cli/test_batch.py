"""`sluice batch`: from a file of prompts to a file of answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.live import Live


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
