"""Commands run in this process, against a whole gateway or none."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import main
from tests.live import Live, live

Run = Callable[..., Result]


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Live]:
    folder = tmp_path / "site"
    folder.mkdir()
    with live(folder) as made:
        yield made


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Nothing of this machine's own settings is seen."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    gone = dict.fromkeys(
        ("SLUICE_URL", "SLUICE_TOKEN", "SLUICE_CONFIG", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "SLUICE_DEBUG")
    )
    return {**gone, "HOME": str(home), "SLUICE_STATE_DIR": str(tmp_path / "state"), "COLUMNS": "200"}


@pytest.fixture
def alone(environment: dict[str, str | None]) -> Run:
    """Runs a command without a gateway."""

    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner(env=environment).invoke(main, list(arguments), prog_name="sluice", **options)

    return run


@pytest.fixture
def sluice(environment: dict[str, str | None], gateway: Live) -> Run:
    """Runs a command against the gateway; told what it should exit with (`code`), it checks that."""

    def run(*arguments: str, code: int = 0, **options: Any) -> Result:
        runner = CliRunner(env={**environment, **gateway.env})
        done = runner.invoke(main, list(arguments), prog_name="sluice", **options)
        assert done.exit_code == code, done.output
        return done

    return run
