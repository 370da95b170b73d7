"""`sluice doctor`: what is made of what was seen, and that no check hides another."""

import os
import pwd
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.core import doctor_job
from gateway.core.doctor import Ways, examine
from gateway.model import doctor
from gateway.model.doctor import Association, Finding, JobReport, NodePath, Verdict
from gateway.model.inventory import Gpus, Inventory, Node, Partition
from gateway.settings import ClusterSettings
from gateway.slurm.fake import FakeSlurm, Run
from gateway.slurm.mounted import MountedFiles
from gateway.slurm.transport import LocalShell

ME = pwd.getpwuid(os.getuid()).pw_name
DBD = {"AccountingStorageType": "accounting_storage/slurmdbd"}
ENFORCED = {"ClusterName": "main", "AccountingStorageEnforce": "associations,limits"}
ROW = Association(cluster="main", account="research", qos=("normal",))
GPU = Gpus(name="gpu", type="a100", total=4, used=0)
NODE = Node(name="n1", states=("IDLE",), available=True, partitions=("cpu",), cpus=4, cpus_used=0, memory=9,
            memory_used=0, gpus=(GPU,))  # fmt: skip
SITE = Inventory(partitions=(Partition(name="cpu", up=True, default=True),), nodes=(NODE,))
CGROUP = {"TaskPlugin": "task/affinity,task/cgroup"}


@pytest.mark.parametrize(
    ("finding", "verdict", "words"),
    [
        (doctor.versions("26.05.5", "rest v0.0.45"), "ok", "26.05.5"),
        (doctor.versions("23.11.4", "cli"), "problem", "23.11.4"),
        (doctor.versions("27.05.0", "cli"), "warning", "27.05"),
        (doctor.versions("master", "cli"), "warning", "master"),
        (doctor.identity("ann", "ann", 2001, "login"), "ok", "2001"),
        (doctor.identity("ann", "bob", 2001, "login"), "problem", "bob"),
        (doctor.identity("root", "root", 0, "login"), "problem", "root"),
        (doctor.identity("daemon", "daemon", 2, "login"), "warning", "uid 2"),
        (doctor.clock({"login": 0.2, "ctl": -1.0}), "ok", "same"),
        (doctor.clock({"login": 0.2, "ctl": -20.0}), "warning", "20 s behind"),
        (doctor.clock({"login": 100.0}), "problem", "100 s ahead"),
        (doctor.job_age({"MinJobAge": "300 sec", **DBD}, 2), "ok", "300 s"),
        (doctor.job_age({"MinJobAge": "10 sec", **DBD}, 2), "warning", "10 s"),
        (doctor.job_age({"MinJobAge": "10 sec"}, 2), "problem", "10 s"),
        (doctor.job_age({"MinJobAge": "300"}, 60), "problem", "60 s"),
        (doctor.job_age({"MinJobAge": "0 sec"}, 2), "ok", "MinJobAge=0"),
        (doctor.job_age({}, 2), "skipped", "MinJobAge"),
        (doctor.accounting(DBD), "ok", "slurmdbd"),
        (doctor.accounting({"AccountingStorageType": "accounting_storage/none"}), "problem", "none"),
        (doctor.association([ROW], ENFORCED, user="ann", account="research", qos="normal"), "ok", "research"),
        (doctor.association([], ENFORCED, user="ann"), "problem", "no association"),
        (doctor.association([], {"ClusterName": "main"}, user="ann"), "warning", "no association"),
        (doctor.association([ROW], {"ClusterName": "other", **DBD}, user="ann"), "warning", "no association"),
        (doctor.association([ROW], ENFORCED, user="ann", account="teaching"), "problem", "teaching"),
        (doctor.association([ROW], ENFORCED, user="ann", qos="high"), "problem", "high"),
        (doctor.association([ROW.model_copy(update={"partition": "gpu"})], ENFORCED, user="ann", partition="cpu"),
         "problem", "cpu"),
        (doctor.partition(SITE, None), "ok", "1 of 1"),
        (doctor.partition(SITE, "gpu"), "problem", "gpu"),
        (doctor.partition(Inventory(partitions=(), nodes=()), None), "warning", "default"),
        (doctor.gpus({}, SITE), "warning", "TaskPlugin=none"),
        (doctor.gpus({"TaskPlugin": "(null)"}, SITE), "warning", "TaskPlugin=none"),
        (doctor.gpus({**CGROUP, "ConstrainDevices": "no"}, SITE), "warning", "ConstrainDevices=no"),
        (doctor.gpus(CGROUP, SITE), "warning", "could not be seen"),
        (doctor.gpus({**CGROUP, "ConstrainDevices": "yes"}, SITE), "ok", "alone"),
        (doctor.gpus({}, Inventory(partitions=(), nodes=())), "skipped", "no GPUs"),
        (doctor.kill_wait({"KillWait": "30 sec"}, 30), "ok", "30 s"),
        (doctor.kill_wait({"KillWait": "12 sec"}, 30), "warning", "12 s"),
        (doctor.node_path([], 3, 6818), "skipped", "No node"),
        (doctor.node_path([NodePath(node="n1", address="10.0.0.1", reached=True)], 3, 6818), "ok", "1 of 3"),
        (doctor.node_path([NodePath(node="n1", address="10.0.0.1", reached=None)], 3, 6818), "warning", "n1"),
        (doctor.node_path([NodePath(node="n1", address="10.0.0.1", reached=False, words="no route")], 3, 6818),
         "problem", "no route"),
        (doctor.programs(JobReport(node="n1", python3="3.11.2", openssl="3", apptainer="1")), "ok", "n1"),
        (doctor.programs(JobReport(node="n1", python3="3.6.8", openssl="3", apptainer="1")), "problem", "3.6.8"),
        (doctor.programs(JobReport(node="n1", python3="3.11.2", openssl="3")), "problem", "apptainer missing"),
    ],
)  # fmt: skip
def test_what_was_seen_is_judged(finding: Finding, verdict: str, words: str) -> None:
    assert finding.verdict == verdict
    assert words in finding.seen
    assert bool(finding.advice) == (verdict in {"warning", "problem"})


class Nowhere:
    """A network on which nothing is."""

    words = "directly"

    async def resolve(self, name: str) -> str | None:
        del name
        return "192.0.2.1"

    async def dial(self, address: str, port: int, *, read: int = 0) -> bytes:
        del address, port, read
        raise OSError(113, "No route to host")


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def ways(tmp_path: Path) -> Callable[[FakeSlurm], Ways]:
    """A cluster in memory whose files and commands are this machine's."""
    (tmp_path / "images").mkdir()

    def make(slurm: FakeSlurm) -> Ways:
        settings = ClusterSettings(
            unix_user=ME,
            session_root=str(tmp_path / "sessions"),
            image_dir=str(tmp_path / "images"),
            account="research",
            default_partition="cpu",
        )
        shell = LocalShell()
        return Ways(
            settings=settings,
            poll_seconds=2,
            scheduler=slurm,
            files=MountedFiles(),
            shell=shell,
            build_shell=shell,
            inspections=[slurm],
            net=Nowhere(),
            clock=now,
        )

    return make


def verdicts(findings: list[Finding]) -> dict[str, Verdict]:
    return {finding.check: finding.verdict for finding in findings}


async def test_a_good_cluster(ways: Callable[[FakeSlurm], Ways], tmp_path: Path) -> None:
    found = verdicts(await examine(ways(FakeSlurm(clock=now)), mark="m1"))
    for check in ("login", "slurm", "versions", "clock", "configuration", "job age", "accounting", "association"):
        assert found[check] is Verdict.OK, check
    for check in ("partition", "gpus", "kill wait", "session folder", "image folder"):
        assert found[check] is Verdict.OK, check
    assert found["node path"] is Verdict.PROBLEM
    assert found["programs"] is Verdict.SKIPPED
    assert list((tmp_path / "sessions").iterdir()) == list((tmp_path / "images").iterdir()) == []


async def test_slurm_down_hides_nothing_else(ways: Callable[[FakeSlurm], Ways]) -> None:
    slurm = FakeSlurm()
    slurm.faults.unavailable = True
    found = verdicts(await examine(ways(slurm), mark="m2"))
    assert found["slurm"] is Verdict.PROBLEM
    assert found["login"] is found["session folder"] is found["image folder"] is Verdict.OK
    assert found["versions"] is found["job age"] is found["partition"] is Verdict.SKIPPED


async def test_what_hangs_is_left(ways: Callable[[FakeSlurm], Ways]) -> None:
    slurm = FakeSlurm()
    slurm.faults.delay = 3600
    found = await examine(ways(slurm), mark="m3", patience=5)
    (told,) = [finding for finding in found if finding.check == "slurm"]
    assert told.verdict is Verdict.PROBLEM
    assert "5 s" in told.seen
    seen = verdicts(found)
    assert seen["session folder"] is Verdict.OK
    assert seen["configuration"] is seen["job age"] is seen["accounting"] is Verdict.SKIPPED


async def test_accounting_down_is_told(ways: Callable[[FakeSlurm], Ways]) -> None:
    slurm = FakeSlurm()
    slurm.faults.accounting_down = True
    found = {finding.check: finding for finding in await examine(ways(slurm), mark="m4")}
    assert found["accounting"].verdict is Verdict.PROBLEM
    assert "slurmdbd does not respond" in found["accounting"].seen
    assert found["association"].verdict is Verdict.SKIPPED


async def test_a_clock_that_is_wrong(ways: Callable[[FakeSlurm], Ways]) -> None:
    slurm = FakeSlurm(clock=lambda: now() - timedelta(seconds=90))
    assert verdicts(await examine(ways(slurm), mark="m5"))["clock"] is Verdict.PROBLEM


async def test_a_folder_that_cannot_be_made(ways: Callable[[FakeSlurm], Ways], tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("in the way")
    assert verdicts(await examine(ways(FakeSlurm()), mark="m6"))["session folder"] is Verdict.PROBLEM


async def test_a_job_that_leaves_no_word(tmp_path: Path) -> None:
    slurm = FakeSlurm(automatic=True, runs=lambda _: Run(0.0, 1))
    settings = ClusterSettings(unix_user=ME, session_root=str(tmp_path))
    found = verdicts(list(await doctor_job.run(slurm, MountedFiles(), Nowhere(), settings, "m7")))
    assert found == {"job": Verdict.PROBLEM, "programs": Verdict.SKIPPED, "job path": Verdict.SKIPPED}


async def test_a_job_that_does_not_start_is_taken_back(tmp_path: Path) -> None:
    slurm = FakeSlurm()
    settings = ClusterSettings(unix_user=ME, session_root=str(tmp_path))
    found = verdicts(list(await doctor_job.run(slurm, MountedFiles(), Nowhere(), settings, "m8", patience=0)))
    assert found["job"] is Verdict.WARNING
    assert (await slurm.look([1]))[1].state == "CANCELLED"


async def test_the_report_of_a_job_is_read_and_its_port_called(tmp_path: Path) -> None:
    report = tmp_path / ".sluice-doctor-m9.job"
    report.write_text("node=n1\npython3=3.11.2\nopenssl=OpenSSL 3\napptainer=1.4\naddress=192.0.2.1\nport=4000\n")
    settings = ClusterSettings(unix_user=ME, session_root=str(tmp_path))
    found = verdicts(list(await doctor_job.run(FakeSlurm(), MountedFiles(), Nowhere(), settings, "m9")))
    assert found == {"job": Verdict.OK, "programs": Verdict.OK, "job path": Verdict.PROBLEM}
    assert not report.exists()
