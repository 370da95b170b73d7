"""The commands for sessions, against a whole gateway."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from openai import OpenAI

from gateway.cli.main import main
from gateway.errors import SessionNotFound
from tests.waiting import until

HERE = Path(__file__).parents[2]


def started(gateway: Any, ref: str) -> int:
    job_id: int = gateway.job_id(ref)
    gateway.in_slurm(gateway.site.slurm.start, job_id)
    return job_id


def test_launch_waits_until_it_is_ready_and_says_what_to_do(gateway: Any, sluice: Any) -> None:
    def serve() -> None:
        _until_there(gateway, "talk")
        job_id = started(gateway, "talk")
        place = gateway.model_server
        told = f"sluice/1 ready tcp={place.host}:{place.port} sha256={place.fingerprint}"
        gateway.in_slurm(gateway.site.slurm.announce, job_id, told)

    thread = threading.Thread(target=serve)
    thread.start()
    done = sluice("launch", "chat", "--name", "talk", "--label", "a=b", "--timeout", "120")
    thread.join()
    assert "Session talk is ready." in done.stdout
    assert "sluice chat talk" in done.stdout
    assert f"{gateway.url}/v1/chat/completions" in done.stdout
    assert "talk ready" in done.stderr


def _until_there(gateway: Any, name: str) -> None:
    def there() -> bool:
        try:
            gateway.do(gateway.site.get(name))
        except SessionNotFound:
            return False
        return True

    until(there, what=f"{name} is there")


def test_launch_prints_the_session_as_json(gateway: Any, sluice: Any) -> None:
    told = json.loads(sluice("launch", "count", "-p", "to=4", "--no-wait", "--time", "10m", "--json").stdout)
    assert told["parameters"] == {"to": 4}
    assert told["resources"]["time"] == 10
    assert json.loads(sluice("list", "--json").stdout)[0]["id"] == told["id"]
    assert gateway.job_id(told["id"]) == 1


def test_sessions_are_found_by_their_labels(sluice: Any) -> None:
    sluice("launch", "count", "--no-wait", "--name", "a", "--label", "run=1", "--label", "by=me")
    sluice("launch", "count", "--no-wait", "--name", "b", "--label", "run=2")
    found = json.loads(sluice("list", "--label", "run=1", "--label", "by=me", "--json").stdout)
    assert [session["name"] for session in found] == ["a"]


def test_one_key_starts_one_session(sluice: Any) -> None:
    arguments = ("launch", "count", "--no-wait", "--json", "--idempotency-key", "k1")
    assert json.loads(sluice(*arguments).stdout)["id"] == json.loads(sluice(*arguments).stdout)["id"]


def test_a_dry_run_prints_the_script_and_starts_nothing(sluice: Any) -> None:
    done = sluice("launch", "count", "-p", "to=4", "--dry-run", "--partition", "debug")
    assert done.stdout.startswith("#!/bin/sh") or done.stdout.startswith("#!/bin/bash")
    assert "--partition=debug" in done.stdout
    assert json.loads(sluice("launch", "count", "--dry-run", "--json").stdout)["options"]["name"].startswith("sluice-")
    assert "no live sessions" in sluice("list").stderr


def test_an_answer_from_a_file(sluice: Any, tmp_path: Path) -> None:
    (tmp_path / "to").write_text("6")
    told = json.loads(sluice("launch", "count", "-p", f"to=@{tmp_path}/to", "--no-wait", "--json").stdout)
    assert told["parameters"] == {"to": 6}
    assert "cannot read" in sluice("launch", "count", "-p", "to=@nowhere", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["launch", "cuont"], 3, "Did you mean 'count'?"),
        (["launch", "count", "-p", "to=99"], 2, "above the maximum 9"),
        (["launch", "count", "-p", "ot=1"], 2, "there is no parameter 'ot'"),
        (["launch", "count", "--name", "No Name"], 2, "name"),
        (["launch", "count", "--cluster", "d"], 3, "there is no cluster 'd'"),
        (["launch", "count", "--memory", "much"], 2, "memory"),
        (["launch", "count", "--label", "x"], 2, "NAME=VALUE"),
        (["show", "nobody"], 3, "there is no session 'nobody'"),
        (["logs", "nobody"], 3, "there is no session"),
        (["stop", "nobody"], 3, "there is no session"),
        (["wait", "nobody"], 3, "there is no session"),
        (["chat", "nobody"], 3, "there is no session or model 'nobody'"),
        (["chat", "Hello there!"], 3, "no model is ready"),
    ],
)
def test_refusals(sluice: Any, arguments: list[str], code: int, said: str) -> None:
    assert said in sluice(*arguments, code=code).stderr


def test_a_wrong_token_is_exit_4(gateway: Any, sluice: Any, environment: dict[str, str | None]) -> None:
    done = CliRunner(env={**environment, "SLUICE_URL": gateway.url, "SLUICE_TOKEN": "x"}).invoke(main, ["list"])
    assert done.exit_code == 4
    assert "not valid here" in done.stderr
    sluice("list")


def test_a_refused_job_speaks_slurms_words(gateway: Any, sluice: Any) -> None:
    done = sluice("launch", "count", "--partition", "nowhere", "--timeout", "120", code=1)
    assert "failed" in done.stderr
    assert "partition" in done.stderr
    assert gateway.site.slurm.submitted() == []


def test_the_way_of_a_batch_session(gateway: Any, sluice: Any) -> None:
    sluice("launch", "count", "--name", "one", "--no-wait")
    job_id = started(gateway, "one")
    assert "is running" in sluice("wait", "one", "--timeout", "120").stdout
    shown = sluice("show", "one").stdout
    assert f"{job_id} (sluice-" in shown
    assert "running" in shown
    session = gateway.reaches("one", "ready")
    gateway.site.log(session).write_text("".join(f"line {n}\n" for n in range(100)))
    assert sluice("logs", "one", "--tail", "2").stdout == "line 98\nline 99\n"
    assert json.loads(sluice("logs", "one", "--json").stdout.splitlines()[0])["text"].startswith("line 0\n")
    gateway.in_slurm(gateway.site.slurm.finish, job_id)
    assert "succeeded" in sluice("wait", "one", "--for", "ended", "--timeout", "120").stdout
    assert sluice("list").stdout == ""
    assert "one" in sluice("list", "--all").stdout
    kinds = [json.loads(line)["type"] for line in sluice("events", "one", "--json").stdout.splitlines()]
    assert kinds[0] == "session.created"
    assert "session.created" in sluice("events").stdout
    sluice("delete", "one")
    assert "one" not in sluice("list", "--all").stdout


def test_a_failed_session_is_exit_1(gateway: Any, sluice: Any) -> None:
    sluice("launch", "count", "--name", "bad", "--no-wait")
    gateway.in_slurm(gateway.site.slurm.finish, started(gateway, "bad"), exit_code=3)
    done = sluice("wait", "bad", "--for", "ended", "--timeout", "120", code=1)
    assert "session bad failed: Job 1 failed with exit code 3." in done.stderr
    assert "sluice logs bad" in done.stderr
    told = json.loads(sluice("wait", "bad", "--json", code=1).stderr)["error"]
    assert (told["code"], told["phase"], told["reason"]) == ("session_failed", "failed", "exit_code")


def test_time_runs_out_with_exit_6(sluice: Any) -> None:
    sluice("launch", "count", "--name", "slow", "--no-wait")
    done = sluice("wait", "slow", "--timeout", "0.3", code=6)
    assert "session slow is not ready after" in done.stderr
    assert "sluice wait slow" in done.stderr


def test_stopping_several(gateway: Any, sluice: Any) -> None:
    for name in ("a", "b", "c"):
        sluice("launch", "count", "--name", name, "--no-wait")
    done = sluice("stop", "a", "nobody", "b", "--wait", "--timeout", "120", code=3)
    assert done.stdout.count("was stopped") == 2
    assert "there is no session 'nobody'" in done.stderr
    assert [s["name"] for s in json.loads(sluice("stop", "--all", "--wait", "--json").stdout)] == ["c"]
    assert "There are no live sessions." in sluice("stop", "--all").stderr
    assert sluice("delete", "--all").stdout.count("forgotten") == 3
    assert gateway.site.slurm.calls["submit"] >= 1


def test_chat(gateway: Any, sluice: Any) -> None:
    gateway.ready(name="talk")
    assert sluice("chat", "talk", "Hello there").stdout == "You said: Hello there \n"
    assert sluice("chat", "tiny", "Hi", "--max-tokens", "5").stdout == "You said: Hi \n"
    assert sluice("chat", "talk", input="from a pipe").stdout == "You said: from a pipe \n"
    assert sluice("chat", "What is it?").stdout == "You said: What is it? \n"
    told = json.loads(sluice("chat", "talk", "Hi", "--system", "Be brief.", "--json").stdout)
    assert told["answer"] == "You said: Hi "
    assert gateway.asked[1]["max_tokens"] == 5
    assert gateway.asked[-1]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "Did you mean 'talk'?" in sluice("chat", "tlak", "Hi", code=3).stderr


def test_open_gives_an_address_that_lets_a_browser_in(gateway: Any, sluice: Any) -> None:
    gateway.ready(name="talk")
    address = sluice("open", "talk", "--print").stdout.strip()
    assert address.startswith(f"{gateway.url}/s/talk/?sluice-code=")
    told = json.loads(sluice("open", "talk", "--json").stdout)["url"]
    assert told != address
    entered = httpx.get(address, timeout=60)
    assert (entered.status_code, entered.headers["location"]) == (303, "/s/talk/")
    assert httpx.get(address, timeout=60).status_code == 401
    sluice("launch", "count", "--no-wait", "--name", "batch")
    assert "never has pages" in sluice("open", "batch", code=2).stderr


def test_status(gateway: Any, sluice: Any) -> None:
    sluice("launch", "count", "--name", "one", "--no-wait")
    gateway.job_id("one")
    shown = sluice("status").stdout
    assert gateway.url in shown
    assert "one" in shown
    told = json.loads(sluice("status", "--json").stdout)
    assert [cluster["name"] for cluster in told["clusters"]] == ["c"]
    assert told["sessions"][0]["name"] == "one"


def test_env_is_for_a_shell_and_for_openai(gateway: Any, sluice: Any) -> None:
    gateway.ready(name="talk")
    lines = sluice("env").stdout
    printed = subprocess.run(
        ["sh", "-c", f'{lines}\nprintf %s "$OPENAI_BASE_URL $OPENAI_API_KEY"'],
        capture_output=True,
        text=True,
        check=True,
    )
    url, key = printed.stdout.split()
    assert json.loads(sluice("env", "--json").stdout)["OPENAI_BASE_URL"] == url
    with OpenAI(base_url=url, api_key=key) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_leaves_the_session_running(gateway: Any, sluice: Any) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.main", "launch", "count", "--name", "long", "--wait"],
        env={**os.environ, **gateway.env},
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = ""
    while "long queued" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=240)
    assert process.returncode == 130, said + rest
    assert "Session long goes on." in rest
    assert "sluice stop long" in rest
    assert json.loads(sluice("show", "long", "--json").stdout)["stop_requested"] is False
