"""The administrator token: made once, private, compared whole."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.errors import SettingsInvalid, Unauthenticated
from gateway.identity.local import LocalIdentity, load, load_or_create, token_file


def test_the_first_start_makes_a_private_token_and_later_ones_keep_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    token = load_or_create(state)
    assert load_or_create(state) == load(state) == token
    assert stat.S_IMODE(token_file(state).stat().st_mode) == 0o600
    assert [path.name for path in state.iterdir()] == ["token"]


def test_services_that_start_at_once_agree_on_one_token(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        tokens = set(pool.map(lambda _: load_or_create(tmp_path / "state"), range(64)))
    assert len(tokens) == 1


def test_the_token_is_the_administrator(tmp_path: Path) -> None:
    identity = LocalIdentity.open(tmp_path)
    caller = identity.authenticate(load(tmp_path))
    assert (caller.name, caller.admin) == ("admin", True)


@pytest.mark.parametrize("wrong", ["", "sluice-", "x", "süß", "sluice-\x00"])
def test_nothing_else_is(tmp_path: Path, wrong: str) -> None:
    identity = LocalIdentity.open(tmp_path)
    with pytest.raises(Unauthenticated):
        identity.authenticate(wrong)
    with pytest.raises(Unauthenticated):
        identity.authenticate(load(tmp_path) + wrong + " ")


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    token_file(tmp_path).chmod(0o640)
    with pytest.raises(SettingsInvalid, match="others may read"):
        LocalIdentity.open(tmp_path)


def test_a_file_that_holds_no_token_is_refused(tmp_path: Path) -> None:
    token_file(tmp_path).touch(mode=0o600)
    with pytest.raises(SettingsInvalid, match="not a token"):
        load_or_create(tmp_path)


def test_reading_makes_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="no token yet"):
        load(tmp_path)
