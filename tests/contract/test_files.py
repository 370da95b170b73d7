"""A cluster's files: by SFTP on the cluster's own sshd, and on a mounted path, held to one contract."""

import os
import pwd
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gateway.core.ports import Files
from gateway.errors import FilesUnavailable, Forbidden, NotFound
from gateway.slurm.mounted import MountedFiles


@dataclass
class Place:
    """Files, the user they are reached as, and where the user's home is on this machine."""

    files: Files
    user: str
    home: Path
    folder: str


@pytest.fixture(params=["mounted", pytest.param("sftp", marks=pytest.mark.cluster)])
async def place(request: pytest.FixtureRequest, tmp_path: Path, run: str, connected: Any) -> AsyncIterator[Place]:
    if request.param == "mounted":
        user = pwd.getpwuid(os.getuid()).pw_name
        place = Place(MountedFiles(home=str(tmp_path)), user, tmp_path, f"t-{run}")
    else:
        cluster = request.getfixturevalue("slurm_cluster")
        place = Place(connected(cluster).files, "alice", cluster.home / "alice", f"t-{run}")
    yield place
    await place.files.remove(place.user, place.folder)
    await place.files.close()


async def test_what_is_written_is_read_from_either_end(place: Place) -> None:
    path = f"{place.folder}/a/b.txt"
    await place.files.write(place.user, path, b"0123456789")
    assert await place.files.read(place.user, path) == b"0123456789"
    assert await place.files.read(place.user, path, offset=4, limit=3) == b"456"
    assert await place.files.read(place.user, path, offset=-3) == b"789"
    assert await place.files.read(place.user, path, offset=-99, limit=2) == b"01"
    assert await place.files.read(place.user, path, offset=99) == b""
    assert await place.files.read(place.user, f"~/{path}") == b"0123456789"
    assert await place.files.read(
        place.user, str(place.home / path) if place.user != "alice" else f"/home/alice/{path}"
    )


async def test_new_files_and_folders_are_private(place: Place) -> None:
    path = f"{place.folder}/a/secret"
    await place.files.write(place.user, path, b"x")
    for part, mode in ((place.folder, 0o700), (f"{place.folder}/a", 0o700), (path, 0o600)):
        seen = await place.files.stat(place.user, part)
        assert seen is not None
        assert seen.mode == mode
    await place.files.write(place.user, path, b"y", mode=0o644)
    seen = await place.files.stat(place.user, path)
    assert seen is not None
    assert (seen.mode, seen.size, seen.directory) == (0o644, 1, False)


async def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(place: Place) -> None:
    path = f"{place.folder}/f"
    await place.files.write(place.user, path, b"old" * 300_000)
    await place.files.write(place.user, path, b"new")
    assert await place.files.read(place.user, path) == b"new"
    assert [entry.path for entry in await place.files.list(place.user, place.folder)] == [path]
    with pytest.raises((Forbidden, FilesUnavailable)):
        await place.files.write(place.user, place.folder, b"a file over a folder")
    names = [entry.name for entry in place.home.iterdir()]
    assert not [name for name in names if name.startswith(f".{place.folder}")]


async def test_a_large_file_is_uploaded(place: Place, tmp_path: Path) -> None:
    source = tmp_path / "image.sif"
    source.write_bytes(os.urandom(1 << 20) * 5)
    await place.files.upload(place.user, str(source), f"{place.folder}/i/image.sif")
    there = place.home / place.folder / "i/image.sif"
    assert there.read_bytes() == source.read_bytes()
    assert there.stat().st_mode & 0o777 == 0o644


async def test_a_folder_is_listed_and_removed_with_everything_but_what_links_point_to(place: Place) -> None:
    await place.files.write(place.user, f"{place.folder}/kept/k", b"x")
    await place.files.write(place.user, f"{place.folder}/gone/sub/f", b"xyz")
    (place.home / place.folder / "gone/link").symlink_to("../kept")
    seen = await place.files.list(place.user, f"{place.folder}/gone")
    assert [(entry.path, entry.directory) for entry in seen] == [
        (f"{place.folder}/gone/link", False),
        (f"{place.folder}/gone/sub", True),
    ]
    await place.files.remove(place.user, f"{place.folder}/gone")
    await place.files.remove(place.user, f"{place.folder}/gone")  # a second time is no error
    assert await place.files.stat(place.user, f"{place.folder}/gone") is None
    assert await place.files.read(place.user, f"{place.folder}/kept/k") == b"x"
    await place.files.remove(place.user, f"{place.folder}/kept/k")
    assert await place.files.list(place.user, f"{place.folder}/kept") == []


async def test_strange_names_are_names(place: Place) -> None:
    for name in ("a b", "-rf", "é☃", "$(touch x)", "a\nb", "*"):
        path = f"{place.folder}/{name}"
        await place.files.write(place.user, path, name.encode())
        assert await place.files.read(place.user, path) == name.encode()
        assert (place.home / place.folder / name).exists()


async def test_what_is_not_there_is_said(place: Place) -> None:
    assert await place.files.stat(place.user, f"{place.folder}/none") is None
    with pytest.raises(NotFound):
        await place.files.read(place.user, f"{place.folder}/none")
    with pytest.raises(NotFound):
        await place.files.list(place.user, f"{place.folder}/none")


@pytest.mark.cluster
async def test_rights_are_the_users_own(slurm_cluster: Any, connected: Any, run: str) -> None:
    files = connected(slurm_cluster).files
    path = f"t-{run}"
    try:
        await files.write("alice", path, b"mine")
        with pytest.raises(Forbidden):
            await files.read("bob", f"/home/alice/{path}")
        with pytest.raises(Forbidden):
            await files.write("bob", f"/home/alice/{path}-2", b"")
        with pytest.raises(Forbidden):
            await files.remove("bob", f"/home/alice/{path}")
        with pytest.raises(Forbidden):
            await files.read("alice", "/etc/shadow")
    finally:
        await files.remove("alice", path)
        await files.close()


@pytest.mark.cluster
async def test_a_host_without_a_known_key_is_not_entered(slurm_cluster: Any, connected: Any, tmp_path: Path) -> None:
    nothing = tmp_path / "known_hosts"
    nothing.write_text("")
    files = connected(slurm_cluster, known_hosts_file=nothing).files
    with pytest.raises(FilesUnavailable, match="host key"):
        await files.read("alice", "x")
    await files.close()


@pytest.mark.cluster
async def test_another_ca_opens_nothing(slurm_cluster: Any, connected: Any, tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(tmp_path / "ca")
    files = connected(slurm_cluster, user_ca_key_file=tmp_path / "ca").files
    with pytest.raises(Forbidden, match="does not let alice in"):
        await files.read("alice", "x")
    await files.close()


async def test_a_root_is_not_left(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "home/me").mkdir(parents=True)
    (tmp_path / "outside").write_text("secret")
    (root / "home/me/out").symlink_to("../../../outside")
    (root / "home/me/up").symlink_to("../../..")
    user = pwd.getpwuid(os.getuid()).pw_name
    files = MountedFiles(root=root, home="/home/me")
    await files.write(user, "a", b"x")
    assert (root / "home/me/a").read_bytes() == b"x"
    for path in ("../../../outside", "out", "up/outside", "/../../outside", "/home/me/../../../outside"):
        with pytest.raises((Forbidden, NotFound)):
            await files.read(user, path)
    with pytest.raises(Forbidden):
        await files.write(user, "up/new", b"x")
    with pytest.raises(Forbidden):
        await files.remove(user, "up/outside")
    await files.remove(user, "out")  # the link itself is inside
    assert (tmp_path / "outside").read_text() == "secret"


async def test_mounted_files_are_ones_own() -> None:
    with pytest.raises(Forbidden):
        await MountedFiles().read("somebody-else", "x")
