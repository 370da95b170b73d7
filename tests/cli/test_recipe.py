"""`sluice recipe`, as a user types it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import main
from gateway.model.recipe import json_schema


@pytest.fixture
def sluice(tmp_path: Path) -> "Sluice":
    return Sluice(tmp_path)


class Sluice:
    """Runs commands with settings of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.settings = folder / "sluice.toml"
        self.settings.write_text('[clusters.dev]\ndefault_partition = "cpu"\nsession_root = "/scratch/s"\n')
        self.folder = folder / "recipes"
        self.folder.mkdir()

    def __call__(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["recipe", *arguments], env={"SLUICE_CONFIG": str(self.settings)})
        assert result.exit_code == code, result.output
        return result


def test_list(sluice: Sluice) -> None:
    assert "llama.cpp model server" in sluice("list").stdout
    listed = json.loads(sluice("list", "--json").stdout)
    assert {"llama-cpp", "vllm"} <= {item["name"] for item in listed}


def test_a_broken_file_is_noted_and_leaves_the_list(sluice: Sluice) -> None:
    (sluice.folder / "bad.yaml").write_text("name: [")
    result = sluice("list", "--folder", str(sluice.folder))
    assert "llama-cpp" in result.stdout
    assert "sluice recipe lint" in result.stderr


def test_folders_of_the_settings_are_in_force(sluice: Sluice) -> None:
    (sluice.folder / "own.yaml").write_text('name: own\nversion: "1"\nkind: batch\nimage: base\ncommand: [x]\n')
    sluice.settings.write_text(f'[recipes]\nfolders = ["{sluice.folder}"]\n')
    assert "own" in sluice("list").stdout


def test_show(sluice: Sluice) -> None:
    text = sluice("show", "vllm").stdout
    assert "extra_arguments" in text
    assert "(needed)" in text
    shown = json.loads(sluice("show", "vllm", "--json").stdout)
    assert (shown["name"], shown["versions"]) == ("vllm", ["1.0"])
    assert "Did you mean 'vllm'?" in sluice("show", "vlm", code=3).stderr


def test_lint(sluice: Sluice) -> None:
    sluice("lint")
    bad = sluice.folder / "bad.yaml"
    bad.write_text('name: bad\nversion: "1"\nkind: bach\nimage: base\ncommand: [x]\n')
    for where in (str(bad), str(sluice.folder)):
        assert f"{bad}:3:1: kind: 'bach' is not allowed" in sluice("lint", where, code=2).stdout
    (problem,) = json.loads(sluice("lint", str(bad), "--json", code=2).stdout)
    assert (problem["line"], problem["column"], problem["field"]) == (3, 1, "kind")
    assert "Did you mean 'batch'?" in problem["hint"]


def test_render(sluice: Sluice) -> None:
    arguments = ["render", "train", "-p", "nodes=2", "-p", "arguments=--lr", "-p", "arguments=0.1", "--gpus", "a100:2"]
    made = json.loads(sluice(*arguments, "--time", "2h", "--json").stdout)
    assert made["plan"]["parameters"]["arguments"] == ["--lr", "0.1"]
    options = made["options"]
    assert (options["nodes"], options["gres"], options["time_limit"], options["partition"]) == (
        2,
        "gpu:a100:2",
        120,
        "cpu",
    )
    assert "session=/scratch/s/" in made["script"]
    assert sluice(*arguments, "--time", "2h").stdout == made["script"]


def test_one_value_of_a_list_may_be_given_alone(sluice: Sluice) -> None:
    made = json.loads(sluice("render", "python-batch", "-p", "script=a=b.py", "-p", "arguments=x", "--json").stdout)
    assert made["plan"]["parameters"]["arguments"] == ["x"]
    assert made["plan"]["parameters"]["script"] == "a=b.py"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-p", "thread=4"], "Did you mean 'threads'?"),
        (["-p", "threads=many"], "not a whole number"),
        (["-p", "threads"], "is not NAME=VALUE"),
        (["--time", "soon"], "resources.time: 'soon' is not a time limit"),
        (["--partition", "a b"], "resources.partition"),
    ],
)
def test_what_cannot_be_rendered(sluice: Sluice, arguments: list[str], said: str) -> None:
    assert said in sluice("render", "llama-cpp", *arguments, code=2).stderr


def test_schema(sluice: Sluice) -> None:
    assert json.loads(sluice("schema").stdout) == json_schema()
    assert json.loads(sluice("schema", "vllm").stdout)["required"] == ["model"]
