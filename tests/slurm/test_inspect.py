"""What a cluster says of itself, read from commands and from slurmrestd."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import SchedulerUnavailable
from gateway.model import doctor
from gateway.model.doctor import Association, Load
from gateway.slurm.commands import Unreadable, parse_associations, parse_clock, parse_sdiag
from gateway.slurm.inspect import CommandInspection, RestInspection
from gateway.slurm.rest_http import RestClient
from gateway.slurm.tokens import Tokens
from gateway.slurm.transport import LocalShell

ROWS = [
    {"user": "alice", "cluster": "c", "account": "research", "qos": ["normal", "low"], "is_default": True},
    {"user": "", "cluster": "c", "account": "research", "partition": "", "qos": ["normal"]},
]


def test_associations_are_read() -> None:
    assert parse_associations("c|research||normal,low\nd|teaching|gpu|\n") == [
        Association(cluster="c", account="research", qos=("normal", "low")),
        Association(cluster="d", account="teaching", partition="gpu"),
    ]
    assert parse_associations("") == []
    with pytest.raises(Unreadable, match="slurmdbd"):
        parse_associations("sacctmgr: error: slurmdbd: no\n")


def test_a_clock_is_read() -> None:
    assert parse_clock("1795236189.5\n") == datetime.fromtimestamp(1795236189.5, UTC)
    with pytest.raises(Unreadable, match="Sat"):
        parse_clock("Sat Nov 21\n")


async def test_commands_that_are_not_there_are_said() -> None:
    shell = LocalShell()
    with pytest.raises(SchedulerUnavailable):
        await CommandInspection(shell, viewer="nobody-here", where="this machine").configuration()


@pytest.fixture
async def inspection(player: Any, tmp_path: Path) -> AsyncIterator[RestInspection]:
    key = tmp_path / "jwt.key"
    key.write_bytes(b"k" * 32)
    client = RestClient(f"http://127.0.0.1:{player.port}", Tokens(key, lambda: 1795236189.0), timeout=60.0)
    yield RestInspection(client, viewer="alice")
    await client.close()


async def test_slurmrestd_tells_the_same(inspection: RestInspection, player: Any, reply: Callable[..., Any]) -> None:
    conf = {"KillWait": 12, "TaskPlugin": ["task/affinity", "task/cgroup"], "DefMemPerCPU": {"set": True, "number": 9}}
    player.answers["GET", "/conf/"] = reply(json.dumps({"slurm_conf": conf}))
    player.answers["GET", "/associations/"] = reply(json.dumps({"associations": ROWS}))
    at = {"set": True, "infinite": False, "number": 1795236189}
    player.answers["GET", "/diag/"] = reply(json.dumps({"statistics": {"req_time": at}}))
    assert await inspection.configuration() == {
        "KillWait": "12",
        "TaskPlugin": "task/affinity,task/cgroup",
        "DefMemPerCPU": "9",
    }
    (row,) = await inspection.associations("alice")
    assert row == Association(cluster="c", account="research", qos=("normal", "low"), default=True)
    assert await inspection.now() == datetime.fromtimestamp(1795236189, UTC)


async def test_an_older_slurmrestd_does_not_tell_its_configuration(
    inspection: RestInspection, player: Any, reply: Callable[..., Any]
) -> None:
    player.answers["GET", "/conf/"] = reply("Unable to find requested URL", 404)
    with pytest.raises(SchedulerUnavailable, match="/conf/"):
        await inspection.configuration()


def test_how_busy_slurmctld_is_as_sdiag_prints_it(read_recorded: Callable[[str], str]) -> None:
    said = read_recorded("sdiag.txt")
    load = parse_sdiag(said)
    assert (load.threads, load.agent_queue, load.dbd_queue) == (1, 0, 0)
    assert set(load.calls) == {"alice", "root", "bob", "slurm"}
    assert load.calls["alice"] > 100
    assert parse_sdiag(said.replace("DBD Agent queue size: 0", "DBD Agent queue size: 4711")).dbd_queue == 4711
    with pytest.raises(Unreadable):
        parse_sdiag("sdiag: error")


@pytest.mark.parametrize(
    ("load", "verdict", "words"),
    [
        (Load(threads=1, agent_queue=0, dbd_queue=0, calls={"alice": 30, "bob": 70}), "ok", "Of 100 calls"),
        (Load(threads=1, agent_queue=0, dbd_queue=5000), "warning", "5000 for slurmdbd"),
        (Load(threads=256, agent_queue=0, dbd_queue=0), "warning", "works on 256 calls"),
    ],
)
def test_what_the_doctor_makes_of_it(load: Load, verdict: str, words: str) -> None:
    finding = doctor.load(load, "alice")
    assert (finding.verdict, words in finding.seen) == (verdict, True)
    assert bool(finding.advice) == (verdict != "ok")
