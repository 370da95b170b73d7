"""The record, the locks and the writes: what must hold whenever something is killed."""

import multiprocessing
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.cluster import files, processes, record, rootfs
from gateway.cluster.record import Record, Running
from gateway.cluster.spec import Net, Spec
from gateway.errors import ClusterError, Invalid


def test_a_record_reads_back(tmp_path: Path) -> None:
    saved = Record(Spec("demo", 3, "trixie", "none"), Net(4, "abcdef"), "/rootfs", images="/images")
    saved = saved.with_host("ctl", Running(10, 11, 12))
    saved.save(tmp_path)
    assert record.load(tmp_path) == saved
    assert (tmp_path / record.FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", '{"spec": {}}', "null"])
def test_a_broken_record_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / record.FILE).write_text(text)
    assert record.load(tmp_path) is None
    assert record.load(tmp_path / "nothing") is None


def test_a_process_is_known_by_its_start_as_numbers_come_again() -> None:
    here = os.getpid()
    born = processes.started(here)
    assert born > 0
    assert Running(here, here, born).alive
    assert not Running(here, here, born + 1).alive
    assert not Running(0, 0, 0).alive


@pytest.mark.parametrize("name", ["../evil", "", "UP"])
def test_what_cannot_be_a_name_never_becomes_a_path(name: str) -> None:
    with pytest.raises(Invalid):
        record.state_of(name)


def test_a_write_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "key"
    files.write_whole(target, b"one", mode=0o600)
    files.write_whole(target, "two", mode=0o640)
    assert target.read_text() == "two"
    assert target.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [target]


def _hold(folder: str, ready: "multiprocessing.synchronize.Event") -> None:
    with files.locked(Path(folder)):
        ready.set()
        multiprocessing.Event().wait()


def test_the_kernel_takes_a_lock_back_when_its_holder_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready))
    holder.start()
    try:
        assert ready.wait(120)
        assert files.busy(tmp_path)
        said: list[str] = []
        with (
            pytest.raises(ClusterError, match="held by another process"),
            files.locked(tmp_path, lambda stage, _: said.append(stage), timeout_s=0.2),
        ):
            pass
        assert set(said) == {"waiting for another sluice cluster command"}
    finally:
        holder.kill()
        holder.join()
    assert not files.busy(tmp_path)
    assert not files.busy(tmp_path / "nothing")
    with files.locked(tmp_path, timeout_s=5) as there:
        assert there
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_not_made_unless_asked(tmp_path: Path) -> None:
    with files.locked(tmp_path / "no", create=False) as there:
        assert not there
    assert not (tmp_path / "no").exists()
    with files.locked(tmp_path / "yes"):
        assert (tmp_path / "yes").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), files.locked(tmp_path / "file"):
        pass


def test_a_folder_is_made_and_held_though_the_end_of_another_takes_the_one_above_along(tmp_path: Path) -> None:
    above, enough = tmp_path / "clusters", threading.Event()

    def ends() -> None:
        """As `down` of the last cluster, again and again."""
        while not enough.is_set():
            for folder in (above / "one", above):
                with suppress(OSError):
                    folder.rmdir()

    other = threading.Thread(target=ends)
    other.start()
    try:
        held = []
        for _ in range(500):
            with files.locked(above / "one") as there:
                held.append(there)
    finally:
        enough.set()
        other.join()
    assert held == [True] * 500


def test_where_no_cluster_ever_was_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_CLUSTER_DIR", str(tmp_path / "none"))
    assert record.all_names() == []
    (tmp_path / "none" / "one").mkdir(parents=True)
    (tmp_path / "none" / "Not.a.name").mkdir()
    assert record.all_names() == ["one"]


def test_the_cache_key_follows_everything_that_decides_the_content() -> None:
    assert rootfs.key("sid", "a").startswith("sid-")
    assert len({rootfs.key("sid", "a"), rootfs.key("sid", "b"), rootfs.key("trixie", "a")}) == 3
