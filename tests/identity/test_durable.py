"""Files that are there whole or not at all."""

from pathlib import Path

import pytest

from gateway import durable


def test_a_file_is_replaced_whole_and_has_its_mode_from_the_first_moment_on(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.replace(path, b"one")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o600)
    with path.open("rb") as before:
        durable.replace(path, b"two", mode=0o644)
        assert (before.read(), path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", b"two", 0o644)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.create(path, b"first")
    durable.create(path, b"second")
    assert (path.read_bytes(), path.stat().st_mode & 0o777, path.stat().st_nlink) == (b"first", 0o600, 1)
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_where_it_cannot_be_put_in_place(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        durable.replace(path, b"one")
    assert list(tmp_path.iterdir()) == [path]
