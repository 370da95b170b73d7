"""The image folder of a cluster, by the real script on this machine."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from gateway.core import images
from gateway.core.context import Cluster
from gateway.errors import ImageMissing, Invalid, Unavailable
from gateway.settings import ClusterSettings
from gateway.store import images as store

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def lay(folder: Path, name: str, content: bytes, built_at: str = "2026-01-01T00:00:00Z") -> Path:
    """An image and its note, as a build leaves them; the path of the note."""
    sha = hashlib.sha256(content).hexdigest()
    folder.mkdir(exist_ok=True)
    stem = folder / f"{name}-{sha[:12]}"
    stem.with_suffix(".sif").write_bytes(content)
    note = {"name": name, "sha256": sha, "size": len(content), "built_at": built_at, "source": "s"}
    stem.with_suffix(".json").write_text(json.dumps(note) + "\n")
    return stem.with_suffix(".json")


async def test_a_fresh_database_finds_the_images_again(place: Any) -> None:
    lay(place.folder, "base", b"one")
    lay(place.folder, "base", b"two", "2026-01-03T00:00:00Z")
    lay(place.folder, "base-er", b"three", "2026-02-01T00:00:00Z")
    found = await images.find(place.db, place.cluster, "base")
    assert found.sha256 == hashlib.sha256(b"two").hexdigest()
    assert found.path == str(place.folder / f"base-{found.sha256[:12]}.sif")
    assert found.built_at == datetime(2026, 1, 3, tzinfo=UTC)
    assert len(await images.every(place.db, "here", "base")) == 2


async def test_what_is_gone_is_forgotten_and_what_was_added_elsewhere_stays(place: Any, tmp_path: Path) -> None:
    note = lay(place.folder, "base", b"one")
    lay(place.folder, "base", b"two")
    elsewhere = tmp_path / "x.sif"
    elsewhere.write_bytes(b"SIF_MAGIC")
    await images.add(place.db, place.cluster, "mine", str(elsewhere), now=NOW)
    await images.adopt(place.db, place.cluster)
    assert len(await images.every(place.db)) == 3
    note.with_suffix(".sif").unlink()
    await images.adopt(place.db, place.cluster)
    assert {image.name for image in await images.every(place.db)} == {"base", "mine"}
    assert len(await images.every(place.db)) == 2


async def test_an_image_that_is_not_as_its_note_says_is_not_taken(place: Any) -> None:
    note = lay(place.folder, "base", b"one")
    note.with_suffix(".sif").write_bytes(b"longer")
    assert await images.adopt(place.db, place.cluster) == []


@pytest.mark.parametrize("suffix", [".sif", ".json"])
async def test_another_users_word_is_not_taken(place: Any, foreign_uid: int, suffix: str) -> None:
    note = lay(place.folder, "base", b"one")
    os.chown(note.with_suffix(suffix), foreign_uid, foreign_uid)
    assert await images.adopt(place.db, place.cluster) == []


async def test_an_image_that_was_never_built_says_how_to(place: Any) -> None:
    with pytest.raises(ImageMissing, match="'llama-cpp' is not on here yet") as caught:
        await images.find(place.db, place.cluster, "llama-cpp")
    assert "sluice image build llama-cpp --cluster here" in caught.value.hint
    with pytest.raises(ImageMissing) as caught:
        await images.find(place.db, place.cluster, "ours")
    assert "./ours.def" in caught.value.hint


async def test_ensure_takes_the_newest_that_is_there(place: Any) -> None:
    lay(place.folder, "base", b"one")
    newest = lay(place.folder, "base", b"two", "2026-01-03T00:00:00Z")
    assert (await images.ensure(place.db, place.cluster, "base")).path == str(newest.with_suffix(".sif"))


async def test_ensure_takes_an_added_one(place: Any, sif: Path) -> None:
    await images.add(place.db, place.cluster, "base", str(sif), now=NOW)
    assert (await images.ensure(place.db, place.cluster, "base")).path == str(sif)


async def test_an_added_image_is_hashed_and_stays_where_it_is(place: Any, sif: Path) -> None:
    added = await images.add(place.db, place.cluster, "mine", str(sif), now=NOW)
    assert added.sha256 == hashlib.sha256(sif.read_bytes()).hexdigest()
    assert (added.path, added.size, added.built_at) == (str(sif), sif.stat().st_size, NOW)
    assert (await images.find(place.db, place.cluster, "mine")) == added


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("relative.sif", "not an absolute path"),
        ("/no/such.sif", "there is no file"),
        ("/etc/passwd", "not an Apptainer"),
    ],
)
async def test_what_cannot_be_added(place: Any, path: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        await images.add(place.db, place.cluster, "mine", path, now=NOW)


async def test_an_image_by_its_path_is_hashed_again_when_it_changes(place: Any, sif: Path) -> None:
    first = await images.find(place.db, place.cluster, str(sif))
    assert first.sha256 == hashlib.sha256(sif.read_bytes()).hexdigest()
    other = "c" * 64  # seen only as long as the file is not read again
    known = first.model_copy(update={"sha256": other})

    def swap(connection: Connection) -> None:
        store.remove(connection, first)
        store.save(connection, known)

    await place.db.write(swap)
    assert (await images.find(place.db, place.cluster, str(sif))).sha256 == other
    sif.write_bytes(sif.read_bytes() + b"more")
    changed = await images.find(place.db, place.cluster, str(sif))
    assert changed.sha256 == hashlib.sha256(sif.read_bytes()).hexdigest()


async def test_an_image_by_a_path_that_is_not_there(place: Any) -> None:
    with pytest.raises(ImageMissing, match="there is no image /no/such"):
        await images.find(place.db, place.cluster, "/no/such.sif")


async def test_without_a_shell_nothing_can_be_built(place: Any) -> None:
    cluster = Cluster(
        name="here", settings=ClusterSettings(), scheduler=place.cluster.scheduler, files=place.cluster.files
    )
    with pytest.raises(Unavailable) as caught:
        await images.build(place.db, cluster, "base")
    assert "build_host" in caught.value.hint
    with pytest.raises(ImageMissing):
        await images.find(place.db, cluster, "base")
