"""`sluice bench`, against a whole gateway."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parents[2]
QUICK = ("--requests", "4", "--prompt-tokens", "5", "--output-tokens", "4")


def test_a_run_is_measured_saved_listed_shown_and_compared(gateway: Any, sluice: Any, tmp_path: Path) -> None:
    gateway.ready(name="talk")
    said = sluice("bench", "talk", "--concurrency", "1,2", *QUICK, "--slo", "e2e=60s").stdout
    assert "1 at once: 4 requests in" in said
    assert "2 at once: 4 requests in" in said
    assert "Time to first token" in said
    place = Path(said.rpartition("Report: ")[2].strip()).parent
    assert place.is_relative_to(tmp_path / "home/.local/share/sluice/bench")
    assert {path.name for path in place.iterdir()} == {"report.json", "samples.csv", "report.html"}
    told = json.loads(sluice("bench", "run", "talk", "--rate", "50", *QUICK, "--label", "open", "--json").stdout)
    assert told["stages"][0]["figures"]["succeeded"] == 4
    assert told["environment"]["session_name"] == "talk"
    assert told["environment"]["gateway_version"]
    listed = sluice("bench", "list").stdout
    assert place.name in listed
    assert "50/s" in listed
    runs = [run["id"] for run in json.loads(sluice("bench", "list", "--json").stdout)]
    assert runs == sorted([place.name, Path(told["folder"]).name], reverse=True)
    assert "2 at once: 4 requests" in sluice("bench", "show", place.name).stdout
    assert json.loads(sluice("bench", "show", "latest", "--json").stdout)["id"] == runs[0]
    page = tmp_path / "both.html"
    beside = sluice("bench", "compare", *runs, "--output", str(page)).stdout
    assert "Requests per second" in beside
    assert "<svg" in page.read_text()
    levels = json.loads(sluice("bench", "compare", *runs, "--json").stdout)["loads"]
    assert [level["load"] for level in levels] != []


def test_a_report_goes_where_it_is_wished_and_over_no_other(gateway: Any, sluice: Any, tmp_path: Path) -> None:
    gateway.ready(name="talk")
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"prompt": "one two three"}\n')
    arguments = ("bench", "talk", "--requests", "2", "--prompts", str(questions), "--output", str(tmp_path / "here"))
    sluice(*arguments)
    assert json.loads((tmp_path / "here/report.json").read_text())["workload"]["prompts"] == "questions.jsonl"
    assert gateway.asked[-1]["messages"][0]["content"] == "one two three"
    assert "there is a report" in sluice(*arguments, code=2).stderr
    assert sluice("bench", "show", str(tmp_path / "here")).stdout.count("4 at once") >= 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["talk", "--concurrency", "x"], 2, "no list of numbers"),
        (["talk", "--concurrency", "1.5"], 2, "whole numbers"),
        (["talk", "--rate", "0"], 2, "above 0"),
        (["talk", "--rate", "1", "--concurrency", "1"], 2, "two kinds of load"),
        (["talk", "--slo", "speed=1"], 2, "there is no metric 'speed'"),
        (["talk", "--prompts", "nowhere.jsonl"], 2, "cannot read nowhere.jsonl"),
        (["compare", "latest"], 2, "two runs or more"),
        (["show", "latest"], 3, "there is no run 'latest'"),
    ],
)
def test_wrong_usage(alone: Any, arguments: list[str], code: int, said: str) -> None:
    done = alone("bench", *arguments)
    assert (done.exit_code, said in done.stderr) == (code, True), done.output


def test_no_runs_yet(alone: Any) -> None:
    assert "There are no runs yet" in alone("bench", "list").stderr
    assert "sluice bench compare RUN RUN" in alone("bench", "--help").stdout


def test_a_session_that_is_not_there(sluice: Any) -> None:
    assert "there is no session 'nobody'" in sluice("bench", "nobody", code=3).stderr


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_keeps_what_was_measured(gateway: Any, tmp_path: Path) -> None:
    gateway.ready(name="talk")
    place = tmp_path / "kept"
    options = ["--duration", "1h", "--concurrency", "1", "--prompt-tokens", "5", "--output", str(place)]
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.main", "bench", "talk", *options],
        env={**os.environ, **gateway.env},
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = ""
    while "answered" not in said:  # the line that it prints every ten seconds
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=120)
    assert process.returncode == 130, out + rest
    assert "was interrupted" in rest
    report = json.loads((place / "report.json").read_text())
    assert report["interrupted"] is True
    assert report["stages"][0]["figures"]["succeeded"] > 0
    assert report["stages"][0]["figures"]["failed"] == 0
