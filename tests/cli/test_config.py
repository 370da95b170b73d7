"""`sluice config`: what is in force, and what cannot work."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "sluice.toml"
    file.write_text(
        'database_url = "postgresql://sluice:hush@db/sluice"\n[serve]\nall_port = 9000\n'
        '[clusters."my.site"]\nbackend = "rest"\nrest_url = "http://ctl:6820"\njwt_key_file = "/nowhere/key"\n'
    )
    return file


def test_what_is_shown_can_be_read_again(alone: Any, settings: Path) -> None:
    text = alone("config", "show").stdout
    values = tomllib.loads(text)
    assert values["serve"]["all_port"] == 9000
    assert values["clusters"]["my.site"]["rest_url"] == "http://ctl:6820"
    assert str(settings.name) in text.splitlines()[0]
    assert "hush" not in text
    assert "sluice:***@db" in text


def test_the_environment_wins(alone: Any, settings: Path, environment: dict[str, str | None]) -> None:
    del settings
    environment["SLUICE_SERVE__ALL_PORT"] = "9001"
    assert json.loads(alone("config", "show", "--json").stdout)["settings"]["serve"]["all_port"] == 9001


def test_the_path(alone: Any, settings: Path) -> None:
    assert alone("config", "path").stdout.strip() == str(settings)
    settings.unlink()
    assert alone("config", "path").exit_code == 3


def test_what_cannot_work_is_told(alone: Any, settings: Path) -> None:
    done = alone("config", "check")
    assert done.exit_code == 2
    assert "clusters.my.site.jwt_key_file: /nowhere/key does not exist" in done.stdout
    with settings.open("a") as file:
        file.write("[serv]\n")
    done = alone("config", "check", "--json")
    assert "serv: unknown setting" in json.loads(done.stderr)["error"]["message"]
    assert "'serve'" in json.loads(done.stderr)["error"]["hint"]


def test_what_works_is_told(alone: Any, settings: Path) -> None:
    settings.write_text('[clusters.here]\nunix_user = "nobody"\n')
    done = alone("config", "check")
    assert done.exit_code == 0
    assert "Clusters: here" in done.stdout


def test_the_schema_is_one(alone: Any) -> None:
    schema = json.loads(alone("config", "schema").stdout)
    assert "clusters" in schema["properties"]
    assert "source" not in schema["properties"]
