"""`sluice image` on this machine: a cluster in single-user mode, no gateway running."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.image import ensure_image
from gateway.cli.main import main
from gateway.settings import load

Sluice = Callable[..., Result]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sluice.toml"
    path.write_text(f'state_dir = "{tmp_path / "state"}"\n[clusters.here]\nimage_dir = "{tmp_path / "images"}"\n')
    return path


@pytest.fixture
def sluice(config: Path) -> Sluice:
    def run(*words: object) -> Result:
        return CliRunner(env={"SLUICE_CONFIG": str(config)}).invoke(main, ["image", *map(str, words)])

    return run


def test_shipped_images_are_listed_before_they_are_built(sluice: Sluice) -> None:
    done = sluice("list")
    assert done.exit_code == 0
    assert re.search(r"^llama-cpp +not built$", done.stdout, re.MULTILINE)
    assert json.loads(sluice("list", "--json").stdout) == []


def test_an_image_is_added_listed_and_shown(sluice: Sluice, sif: Path) -> None:
    added = json.loads(sluice("add", "mine", sif, "--json").stdout)
    assert added["path"] == str(sif)
    listed = sluice("list").stdout.splitlines()
    assert next(line for line in listed if line.startswith("mine")).split()[1:4] == ["in", "use", added["sha256"][:12]]
    shown = sluice("show", "mine").stdout
    assert f"sha256:{added['sha256']}" in shown
    assert json.loads(sluice("show", "mine", "--json").stdout)["older"] == []


def test_what_is_not_there_is_told_with_what_to_do(sluice: Sluice) -> None:
    done = sluice("show", "llama-cpp")
    assert done.exit_code == 3
    assert "sluice image build llama-cpp --cluster here" in done.stderr
    assert sluice("build", "lama-cpp").exit_code == 3
    assert sluice("build", "vllm", "--arg", "VARIANT").exit_code == 2
    assert sluice("build", "vllm", "--arg", "VARIANTE=cuda").exit_code == 2


def test_a_dockerfile_is_imported_once(sluice: Sluice, tmp_path: Path) -> None:
    folder = tmp_path / "Tools"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM debian\nRUN true\nEXPOSE 80\n")
    done = sluice("import", folder / "Dockerfile")
    assert done.exit_code == 0
    assert done.stdout.strip() == str(folder / "tools.def")
    assert "Dockerfile:3: EXPOSE is left out" in done.stderr
    assert sluice("import", folder / "Dockerfile").exit_code == 2
    again = sluice("import", folder / "Dockerfile", "--overwrite", "--json")
    assert [note["line"] for note in json.loads(again.stdout)["notes"]] == [3]


def test_ensure_is_quick_about_what_is_there(config: Path, sif: Path, sluice: Sluice) -> None:
    assert sluice("add", "mine", sif).exit_code == 0
    said: list[str] = []
    pinned = asyncio.run(ensure_image(load(config, {}), "here", "mine", said.append))
    assert pinned.path == str(sif)
    assert said == []
