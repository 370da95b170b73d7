"""A cluster whose build host and file system are this machine, and a database."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.core.context import Cluster
from gateway.settings import ClusterSettings
from gateway.slurm.fake import FakeSlurm
from gateway.slurm.mounted import MountedFiles
from gateway.slurm.transport import LocalShell
from gateway.store.database import Database


@dataclass(frozen=True)
class Place:
    """An image folder on this machine, with all that image use cases need."""

    db: Database
    cluster: Cluster
    folder: Path


@pytest.fixture
def sif(tmp_path: Path) -> Path:
    """A file that begins like a SIF, outside the image folder."""
    path = tmp_path / "outside.sif"
    path.write_bytes(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0...")
    return path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'sluice.db'}")
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def place(tmp_path: Path, database: Database) -> Place:
    folder = tmp_path / "images of ours"
    cluster = Cluster(
        name="here",
        settings=ClusterSettings(image_dir=str(folder)),
        scheduler=FakeSlurm(),
        files=MountedFiles(),
        build_shell=LocalShell(),
    )
    return Place(database, cluster, folder)


@pytest.fixture
def foreign_uid() -> int:
    """Somebody else's user id, where files can be given away."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    return 65534
