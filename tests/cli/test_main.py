"""The root of the commands: help, lazy loading, mistakes, exit codes, completion."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from gateway import errors
from gateway.cli import errors as cli_errors
from gateway.cli.main import main
from tests.waiting import until

HERE = Path(__file__).parents[2]
HEAVY = {"pydantic", "rich", "httpx", "sqlalchemy", "fastapi", "tenacity", "asyncio", "gateway.sdk", "gateway.settings"}


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real process."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom gateway.cli.main import main\ntry:\n    main(['--help'])\nfinally:\n"
        "    print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = start("-c", script)
    assert "Start here" in done.stdout
    assert HEAVY.isdisjoint(done.stderr.split())
    assert all(name in done.stdout for name in main.entries)


def test_the_help_of_the_table_is_that_of_the_commands() -> None:
    for path, command in main.walk():
        if " " not in path:
            assert command.name == path
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "help":
                assert parameter.help, f"{path} {parameter.opts}"


def test_every_command_shows_its_help(alone: Any) -> None:
    for path, _ in main.walk():
        done = alone(*path.split(), "--help")
        assert done.exit_code == 0, path
        assert "Usage:" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lanch"], "Did you mean 'launch'?"),
        (["--jsn"], "No such option"),
        (["show"], "Missing argument 'SESSION'"),
        (["list", "--phase", "redy"], "redy"),
        (["wait", "x", "--timeout", "soon"], "not a duration"),
        (["stop"], "Name sessions, or give --all."),
    ],
)
def test_wrong_usage_is_exit_2(alone: Any, arguments: list[str], said: str) -> None:
    done = alone(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stdout == ""


def test_errors_are_json_with_json(alone: Any) -> None:
    done = alone("show", "--json")
    told = json.loads(done.stderr)["error"]
    assert (told["code"], told["exit"], done.exit_code) == ("usage", 2, 2)


def test_a_gateway_that_is_away_is_exit_5(alone: Any, environment: dict[str, str | None]) -> None:
    environment["SLUICE_URL"] = "http://127.0.0.1:1"
    done = alone("list", "--json")
    assert done.exit_code == 5
    told = json.loads(done.stderr)["error"]
    assert (told["code"], told["retryable"]) == ("unavailable", True)
    assert "sluice up" in told["hint"]


def test_every_error_has_an_exit_code_that_is_documented() -> None:
    for kind in errors.tree():
        assert cli_errors.exit_code(kind) in cli_errors.MEANINGS
    assert set(cli_errors.EXIT_CODES.values()) <= set(cli_errors.MEANINGS)
    told = [int(code) for code in re.findall(r"^(\d+) ", f"{cli_errors.__doc__}", re.MULTILINE)]
    assert told == list(cli_errors.MEANINGS)


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli_errors.report(ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn"), as_json=False)
    assert code == 2
    assert "pip install 'sluice[server]'" in capsys.readouterr().err


def test_what_nobody_foresaw_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_errors.report(ZeroDivisionError("oh"), as_json=False) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Error: ZeroDivisionError: oh",
        "Hint:  This should not happen. SLUICE_DEBUG=1 shows where it comes from.",
    ]


def test_version(alone: Any) -> None:
    assert alone("version").output.startswith("sluice ")
    assert "version" in json.loads(alone("version", "--json").output)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(alone: Any, shell: str) -> None:
    assert f"_SLUICE_COMPLETE={shell}_complete" in alone("completion", shell).output


def complete(line: str, **environment: str) -> list[str]:
    """What bash would offer at the end of the line, by a real process."""
    words = line.split(" ")
    done = start(
        "-c",
        "from gateway.cli.main import main; main(prog_name='sluice')",
        _SLUICE_COMPLETE="bash_complete",
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
        **environment,
    )
    assert done.stderr == ""
    return [item.partition(",")[2] for item in done.stdout.split()]


def test_commands_are_completed_without_being_imported() -> None:
    assert complete("sluice st") == ["status", "stop"]
    assert complete("sluice recipe re") == ["render"]


def until_completed(line: str, offered: list[str], **environment: str) -> None:
    """Nobody waits long for a Tab: on a slow machine the gateway may be too late, and it is pressed again."""
    until(lambda: complete(line, **environment), lambda found: found == offered, what=line)


def test_names_are_completed_by_the_gateway(gateway: Any, sluice: Any) -> None:
    sluice("launch", "count", "--name", "mine", "--no-wait")
    until_completed("sluice show ", ["mine"], **gateway.env)
    until_completed("sluice launch c", ["chat", "count"], **gateway.env)
    until_completed("sluice launch count --cluster ", ["c"], **gateway.env)


def test_names_of_what_policies_are_asked_about_are_completed(gateway: Any, sluice: Any) -> None:
    sluice("volume", "add", "corpus")
    sluice("secret", "set", "hub", input="s3cret")
    sluice("token", "create", "nightly")
    asks = "sluice policy check"
    until_completed(f"{asks} --volume ", ["corpus"], **gateway.env)
    until_completed(f"{asks} --secret h", ["hub"], **gateway.env)
    assert complete(f"{asks} --project default --secret ", **gateway.env) == [], "that project has none"
    until_completed(f"{asks} --action project.change --on ", ["default"], **gateway.env)
    until_completed(f"{asks} --action user.change --on adm", ["admin"], **gateway.env)
    until_completed(f"{asks} --action token.revoke --on ", ["nightly"], **gateway.env)


def test_completion_without_a_gateway_is_silent() -> None:
    assert complete("sluice show ", SLUICE_URL="http://127.0.0.1:1") == []


def test_a_closed_pipe_is_no_failure() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m gateway.cli.main config schema | head -1"],
        cwd=HERE, capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "{"
    assert done.stderr == ""
