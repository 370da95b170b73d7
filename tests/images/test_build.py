"""Real builds by Apptainer on a real cluster's build host, as an ordinary user."""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cluster import Cluster as LocalCluster
from gateway.core import images
from gateway.core.context import Cluster
from gateway.core.dockerfile import convert
from gateway.errors import ImageBuildFailed, Invalid
from gateway.settings import load
from gateway.slurm import connect
from gateway.store.database import Database

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
SMALL = (
    "Bootstrap: localimage\nFrom: {{ BASE }}\n%arguments\n  BASE=base.sif\n  WORD=none\n%files\n  greeting /greeting\n"
)


@pytest.fixture(scope="module")
def folder(slurm_cluster: LocalCluster) -> Iterator[str]:
    """An image folder of this run's own, so that everything is really built, and the base image once."""
    path = f"/home/alice/images-{uuid.uuid4().hex[:8]}"
    yield path
    slurm_cluster.exec("build", ["rm", "-rf", path], user="alice")


@pytest.fixture
async def cluster(slurm_cluster: LocalCluster, folder: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    path = tmp_path / "sluice.toml"
    path.write_text(slurm_cluster.settings_toml().replace('image_dir = "/home/images"', f'image_dir = "{folder}"'))
    settings = load(path, {}).clusters[slurm_cluster.name]
    backend = connect(settings, name=slurm_cluster.name)
    yield Cluster(
        name=backend.name,
        settings=settings,
        scheduler=backend.scheduler,
        files=backend.files,
        build_shell=backend.build_shell,
    )
    await backend.close()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A definition file of the user's own on the base image; `%post` is appended."""
    (tmp_path / "greeting").write_text("hello\n")
    path = tmp_path / "small.def"
    path.write_text(SMALL)
    return path


async def names(cluster: Cluster) -> list[str]:
    folder = cluster.settings.image_dir
    return sorted(Path(stat.path).name for stat in await cluster.files.list("alice", folder))


async def test_from_a_definition_to_a_container(
    cluster: Cluster, database: Database, slurm_cluster: LocalCluster, small: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    small.write_text(f"{SMALL}%post\n  echo 'word {{{{ WORD }}}}' > /word\n")
    built = await images.build(database, cluster, str(small), arguments={"WORD": "up"}, progress=said.append)
    assert said[0] == "building base"
    assert "building small" in said
    assert any(line.startswith("I: ") for line in said)  # debootstrap's own words

    def inside(image: str, *command: str) -> str:
        return slurm_cluster.exec("node1", ["apptainer", "exec", image, *command], user="alice").stdout

    assert inside(built.path, "cat", "/word", "/greeting") == "word up\nhello\n"
    digest = slurm_cluster.exec("node1", ["sha256sum", built.path], user="alice").stdout.split()[0]
    assert built.sha256 == digest
    assert built.path.endswith(f"/small-{digest[:12]}.sif")

    # The build host lends its ways to Debian and PyPI, and the image keeps nothing of them.
    base = await images.find(database, cluster, "base")
    left = inside(
        base.path, "sh", "-c", "ls -A /mnt /opt /.sluice-build /etc/pip.conf /etc/apt/sources.list 2>&1; true"
    )
    assert [line for line in left.splitlines() if line and "No such file" not in line] == ["/mnt:", "/opt:"]

    # The same again is there already, also for a gateway that knows nothing yet.
    before = await names(cluster)
    fresh = Database(f"sqlite:///{tmp_path / 'fresh.db'}")
    fresh.open()
    try:
        assert await images.ensure(fresh, cluster, "small") == built
        again = await images.build(fresh, cluster, str(small), arguments={"WORD": "up"})
        assert again.sha256 == built.sha256
        assert await names(cluster) == before

        # Another word is another image; the older one stays for the sessions that have it.
        other = await images.build(fresh, cluster, str(small), arguments={"WORD": "down"})
        assert inside(other.path, "cat", "/word") == "word down\n"
        assert inside(built.path, "cat", "/word") == "word up\n"
        assert (await images.find(fresh, cluster, "small")).sha256 == other.sha256
    finally:
        fresh.close()


async def test_a_build_that_fails_tells_its_last_lines(cluster: Cluster, database: Database, small: Path) -> None:
    small.write_text(f"{SMALL}%post\n  echo looking for it\n  echo 'it is not there' >&2\n  exit 3\n")
    with pytest.raises(ImageBuildFailed) as caught:
        await images.build(database, cluster, str(small))
    assert "it is not there" in caught.value.message
    assert "looking for it" in caught.value.message
    assert str(small) in caught.value.hint
    assert not [name for name in await names(cluster) if name.endswith(".part")]


async def test_a_build_that_is_given_up_leaves_nothing(
    cluster: Cluster, database: Database, slurm_cluster: LocalCluster, small: Path
) -> None:
    small.write_text(f"{SMALL}%post\n  echo waiting for ever\n  tail -f /dev/null\n")
    waiting = asyncio.Event()

    def told(line: str) -> None:
        if line == "waiting for ever":
            waiting.set()

    task = asyncio.create_task(images.build(database, cluster, str(small), progress=told))
    async with asyncio.timeout(600):
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The next build waits until the one before it is gone.
        small.write_text(f"{SMALL}%post\n  true\n")
        await images.build(database, cluster, str(small))
    assert not [name for name in await names(cluster) if name.endswith(".part")]
    left = slurm_cluster.exec("build", ["pgrep", "-u", "alice", "-f", "tail -f /dev/null"], user="alice", check=False)
    assert left.stdout == ""


async def test_a_dockerfile_becomes_a_container(
    cluster: Cluster, database: Database, slurm_cluster: LocalCluster, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a b.txt").write_text("data\n")
    (tmp_path / "Dockerfile").write_text(
        'FROM debian:sid\nENV GREETING="good day" WHO=you\nWORKDIR /app\nCOPY data/ things/\n'
        "RUN sh -c 'echo \"$GREETING, $WHO\" > greeting' \\\n  && chmod 640 greeting\n"
        'USER nobody\nENTRYPOINT ["cat", "greeting", "things/a b.txt"]\n'
    )
    text = convert(tmp_path / "Dockerfile").definition
    # No container registry here: the same on our own Debian.
    text = text.replace("Bootstrap: docker\nFrom: debian:sid", "Bootstrap: localimage\nFrom: {{ BASE }}")
    (tmp_path / "app.def").write_text(f"{text}\n%arguments\n  BASE=base.sif\n")
    built = await images.build(database, cluster, str(tmp_path / "app.def"))
    ran = slurm_cluster.exec("node1", ["apptainer", "run", "--env", "WHO=they", built.path], user="alice")
    assert ran.stdout == "good day, you\ndata\n"


async def test_an_argument_that_is_wrong_is_told_before_anything_runs(cluster: Cluster, database: Database) -> None:
    with pytest.raises(Invalid, match="takes no argument 'RELAESE'"):
        await images.build(database, cluster, "base", arguments={"RELAESE": "sid"})


async def test_a_definition_says_what_to_do_where_no_apptainer_is(place: Any, small: Path) -> None:
    small.write_text("Bootstrap: localimage\nFrom: x.sif\n")
    if shutil.which("apptainer"):
        pytest.skip("this machine has Apptainer")
    with pytest.raises(ImageBuildFailed, match="there is no apptainer"):
        await images.build(place.db, place.cluster, str(small))
