"""Keys of secrets: what is sealed opens for its place alone, keys come and go, and the file is its owner's."""

import base64
import secrets
from pathlib import Path

import pytest

from gateway.errors import Invalid, SettingsInvalid, Unavailable
from gateway.identity.keyring import Keyring, key_of


def a_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def test_the_first_start_makes_a_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    ring = Keyring.open(tmp_path / "state", None, {})
    path = tmp_path / "state" / "secrets.keys"
    assert path.stat().st_mode & 0o777 == 0o600
    sealed = ring.seal("hush", "secret:1")
    assert "hush" not in sealed
    assert Keyring.open(tmp_path / "state", None, {}).open_sealed(sealed, "secret:1") == "hush"


def test_a_sealed_value_opens_in_its_own_place_only(tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "keys")
    sealed = ring.seal("hush", "secret:1")
    with pytest.raises(Unavailable, match="not as it was sealed"):
        ring.open_sealed(sealed, "secret:2")
    changed = sealed[:-4] + ("AAAA" if not sealed.endswith("AAAA") else "BBBB")
    with pytest.raises(Unavailable, match="not as it was sealed"):
        ring.open_sealed(changed, "secret:1")
    assert ring.seal("hush", "secret:1") != sealed


def test_a_running_server_sees_a_new_key_and_a_lost_one_is_named(tmp_path: Path) -> None:
    running, rotating = Keyring(tmp_path / "keys"), Keyring(tmp_path / "keys")
    before = running.seal("hush", "x")
    old = running.current
    fresh = rotating.add()
    assert (running.current, running.ids) == (fresh, (fresh, old))
    assert running.open_sealed(before, "x") == "hush"
    assert key_of(running.seal("hush", "x")) == fresh
    with pytest.raises(Invalid, match="in use"):
        rotating.forget([fresh])
    rotating.forget([old])
    with pytest.raises(Unavailable, match=old):
        running.open_sealed(before, "x")


def test_keys_from_the_environment_take_the_place_of_the_file(tmp_path: Path) -> None:
    first, second = a_key(), a_key()
    old = Keyring.open(tmp_path, None, {"SLUICE_SECRET_KEYS": second})
    both = Keyring.open(tmp_path, None, {"SLUICE_SECRET_KEYS": f"{first},{second}"})
    assert not (tmp_path / "secrets.keys").exists()
    assert both.open_sealed(old.seal("hush", "x"), "x") == "hush"
    assert both.ids[1:] == old.ids
    with pytest.raises(Invalid, match="SLUICE_SECRET_KEYS"):
        both.add()


@pytest.mark.parametrize("text", ["", "short", "c2hvcnQ=", "# nothing\n"])
def test_what_is_no_key_is_told_without_repeating_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SettingsInvalid) as told:
        Keyring(path)
    assert not text.strip("# \n") or text not in str(told.value)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    Keyring(tmp_path / "keys")
    (tmp_path / "keys").chmod(0o640)
    with pytest.raises(SettingsInvalid, match="can be read by others"):
        Keyring(tmp_path / "keys")
