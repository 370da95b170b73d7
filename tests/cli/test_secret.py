"""`sluice secret`: values come by prompt, pipe or file, never as an argument, and never back."""

from pathlib import Path
from typing import Any

import pytest

from gateway.core import secrets
from gateway.model.principal import LOCAL_ADMIN
from tests.live import Live

VALUE = "hf_ThisMustNotBeSeen"


@pytest.mark.parametrize(
    ("given", "kept"),
    [(VALUE, VALUE), (f"{VALUE}\n", VALUE), (f"{VALUE}\r\n", VALUE), ("-----A\nB\n", "-----A\nB\n")],
)
def test_a_value_comes_by_a_pipe(sluice: Any, gateway: Live, given: str, kept: str) -> None:
    done = sluice("secret", "set", "hub", input=given)
    assert "hub is kept" in done.stderr
    assert value_of(gateway, "hub") == kept


def test_a_value_comes_from_a_file_and_nothing_shows_it(sluice: Any, gateway: Live, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(VALUE)
    said = [
        sluice("secret", "set", "hub", "--from-file", str(tmp_path / "token")).output,
        sluice("secret", "list").output,
        sluice("secret", "list", "--json").output,
    ]
    assert "hub" in said[1]
    assert VALUE not in "".join(said)
    assert value_of(gateway, "hub") == VALUE
    sluice("secret", "set", "hub", "--from-file", str(tmp_path / "missing"), code=2)
    sluice("secret", "set", "hub", VALUE, code=2)


def test_a_secret_is_removed_once(sluice: Any) -> None:
    sluice("secret", "set", "hub", input=VALUE)
    sluice("secret", "remove", "hub")
    assert "no secret 'hub'" in sluice("secret", "remove", "hub", code=3).stderr


def test_launch_refers_to_secrets_by_name(sluice: Any, gateway: Live) -> None:
    (gateway.site.recipes / "login.yaml").write_text(
        'name: login\nversion: "1"\nkind: batch\nimage: base\ncommand: [login]\n'
        "parameters:\n  token: {type: secret}\nsecrets:\n  HUB_TOKEN: {parameter: token}\n"
    )
    ask = ("launch", "login", "--no-wait", "--secret", "token=hub")
    assert "sluice secret set hub" in sluice(*ask, code=3).stderr
    sluice("secret", "set", "hub", input=VALUE)
    sluice(*ask)
    told = sluice("launch", "login", "--secret", VALUE, code=2)
    assert VALUE not in told.output


def test_the_key_is_rotated_beside_a_running_gateway(sluice: Any, alone: Any, gateway: Live) -> None:
    sluice("secret", "set", "hub", input=VALUE)
    state = {"SLUICE_STATE_DIR": str(gateway.site.gateway.settings.state_dir)}
    before = gateway.site.gateway.vault.current
    done = alone("secret", "rotate-key", env=state)
    assert (done.exit_code, "1 secrets encrypted anew" in done.output) == (0, True), done.output
    assert gateway.site.gateway.vault.current != before
    assert value_of(gateway, "hub") == VALUE


def value_of(gateway: Live, name: str) -> str:
    found = gateway.do(secrets.resolve(gateway.site.gateway, LOCAL_ADMIN, "default", {name: True})).values
    return found[name]
