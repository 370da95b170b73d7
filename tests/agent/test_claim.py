"""One attempt of a session is run by the first job that begins it, and by no other."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gateway.agent import claim


def ran(agent: Any) -> int:
    path: Path = agent.session / "work" / "ran"
    return path.read_text().count("ran") if path.exists() else 0


def spec(agent: Any, **changes: Any) -> Any:
    script = f"#!/bin/sh\necho ran >> {agent.session}/work/ran\n"
    return agent.spec(service=None, container={"script": script}, gateway="0a1b2c3d", **changes)


def test_a_second_job_of_the_attempt_makes_way_and_says_for_which(agent: Any) -> None:
    agent.start(spec(agent), SLURM_JOB_ID="7")
    assert agent.ends() == 0
    agent.start(spec(agent), SLURM_JOB_ID="8")
    assert agent.ends() == 75
    assert agent.comments == [
        "sluice/1@0a1b2c3d ended reason=finished code=0",
        "sluice/1@0a1b2c3d ended reason=duplicate code=75 holder=7",
    ]
    assert ran(agent) == 1
    assert list(agent.tmp.iterdir()) == []


def test_a_requeued_job_and_another_attempt_go_on(agent: Any) -> None:
    for attempt, job in ((1, "7"), (1, "7"), (2, "8")):
        agent.start(spec(agent, attempt=attempt), SLURM_JOB_ID=job)
        assert agent.ends() == 0
    assert ran(agent) == 3


def test_who_makes_way_says_so_however_long_the_controller_is_away(agent: Any) -> None:
    agent.start(spec(agent), SLURM_JOB_ID="7")
    assert agent.ends() == 0
    agent.down.touch()
    agent.start(spec(agent), SLURM_JOB_ID="8")
    agent.said("trying again")
    agent.down.unlink()
    assert agent.ends() == 75
    assert agent.comments[-1].endswith("reason=duplicate code=75 holder=7")


def test_of_many_that_begin_at_once_one_has_it(tmp_path: Path) -> None:
    place = str(tmp_path / "claim-1")
    with ThreadPoolExecutor(16) as pool:
        holders = list(pool.map(lambda number: claim.take(place, str(number)), range(100, 132)))
    won = [number for number, holder in zip(range(100, 132), holders, strict=True) if holder is None]
    assert len(won) == 1
    assert {holder for holder in holders if holder is not None} == {str(won[0])}
    assert [path.name for path in tmp_path.iterdir()] == ["claim-1"]


def test_it_needs_no_hard_links(tmp_path: Path) -> None:
    """As on a file system that has none; in another process, where `link` can be taken away for good."""
    program = (
        "import os, sys\n"
        "def link(*_): raise PermissionError(1, 'Operation not permitted')\n"
        "os.link = link\n"
        "from gateway.agent import claim\n"
        "print([claim.take(sys.argv[1], job) for job in ('7', '8', '7')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "claim-1")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[None, '7', None]"
