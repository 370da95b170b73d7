"""`sluice doctor` before a real cluster: a good configuration on each back end, and broken ones."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cluster import Cluster

pytestmark = pytest.mark.cluster

Found = dict[str, dict[str, str]]
Doctor = Callable[..., tuple[int, Found]]


@pytest.fixture
def doctor(slurm_cluster: Cluster, tmp_path: Path) -> Doctor:
    """Run it on the cluster's settings, with changes (values in TOML): the exit code, and the findings by check."""
    return _doctor(slurm_cluster, tmp_path)


@pytest.fixture
def older_doctor(older_cluster: Cluster, tmp_path: Path) -> Doctor:
    """The same before Slurm 24.11."""
    return _doctor(older_cluster, tmp_path)


def _doctor(cluster: Cluster, folder: Path) -> Doctor:
    def run(*options: str, **changes: str) -> tuple[int, Found]:
        lines = cluster.settings_toml().splitlines()
        kept = [line for line in lines if line.partition(" =")[0] not in changes]
        config = folder / "sluice.toml"
        config.write_text("\n".join([*kept, *(f"{key} = {value}" for key, value in changes.items())]))
        environment = {**os.environ, "SLUICE_CONFIG": str(config), "SLUICE_STATE_DIR": str(folder)}
        command = [sys.executable, "-m", "gateway.cli.main", "doctor", "--json", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.stdout, done.stderr
        assert done.stderr == ""
        told = json.loads(done.stdout)
        assert told["problems"] == sum(finding["verdict"] == "problem" for finding in told["findings"])
        return done.returncode, {finding["check"]: finding for finding in told["findings"]}

    return run


def problems(found: Found) -> set[str]:
    return {check for check, finding in found.items() if finding["verdict"] == "problem"}


def test_a_good_configuration_with_slurmrestd_and_a_job(doctor: Doctor, slurm_cluster: Cluster) -> None:
    code, found = doctor("--job")
    assert (code, problems(found)) == (0, set()), found
    warnings = {check for check, finding in found.items() if finding["verdict"] != "ok"}
    assert warnings == {"gpus", "kill wait"}  # the local cluster has no cgroups, and KillWait=12
    assert found["versions"]["seen"].endswith("asked by rest v0.0.45.") or slurm_cluster.record.spec.release != "sid"
    assert "apptainer version" in found["programs"]["seen"]
    assert "reached the job" in found["job path"]["seen"]
    sessions = slurm_cluster.home / "alice/.sluice/sessions"
    assert [path.name for path in sessions.glob(".sluice-doctor-*")] == []


def test_a_good_configuration_with_commands_over_ssh(doctor: Doctor) -> None:
    code, found = doctor(backend='"cli"')
    assert (code, problems(found)) == (0, set()), found
    assert found["versions"]["seen"].endswith("asked by cli.")
    assert "were alice's" in found["load"]["seen"]


def test_a_wrong_key_for_tokens(doctor: Doctor, tmp_path: Path) -> None:
    key = tmp_path / "jwt.key"
    key.write_bytes(b"x" * 32)
    code, found = doctor(jwt_key_file=json.dumps(str(key)))
    assert code == 1
    assert problems(found) == {"slurm"}
    for check in ("login", "identity", "accounting", "association", "session folder"):
        assert found[check]["verdict"] == "ok", found[check]
    assert found["partition"]["verdict"] == "skipped"


def test_nobody_listens_where_slurmrestd_should(doctor: Doctor) -> None:
    code, found = doctor(rest_url='"http://127.0.0.1:1"')
    assert code == 1
    assert problems(found) == {"slurm"}
    assert "rest_url" in found["slurm"]["advice"]


def test_a_host_key_that_is_not_known(doctor: Doctor, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text("")
    code, found = doctor(known_hosts_file=json.dumps(str(known)))
    assert code == 1
    assert problems(found) == {"login", "build host"}
    assert "host key" in found["login"]["seen"]
    assert found["slurm"]["verdict"] == found["association"]["verdict"] == "ok"
    assert found["session folder"]["verdict"] == "skipped"


def test_a_session_folder_that_is_not_the_users(doctor: Doctor) -> None:
    code, found = doctor(session_root='"/etc/sluice-sessions"')
    assert (code, problems(found)) == (1, {"session folder"})
    assert "alice cannot write in /etc/sluice-sessions" in found["session folder"]["seen"]


def test_an_account_that_is_not_the_users(doctor: Doctor) -> None:
    code, found = doctor(account='"teaching"', default_partition='"nosuch"')
    assert (code, problems(found)) == (1, {"association", "partition"})
    assert "sacctmgr add user alice account=teaching" in found["association"]["advice"]


def test_a_user_whom_the_cluster_does_not_know(doctor: Doctor) -> None:
    code, found = doctor(unix_user='"nobody-here"')
    assert code == 1
    assert {"login", "association"} <= problems(found)
    assert "nobody-here" in found["login"]["seen"]
    assert found["identity"]["verdict"] == found["session folder"]["verdict"] == "skipped"


def test_a_setting_that_is_missing(doctor: Doctor) -> None:
    code, found = doctor(files='"sftp"', ssh_host='""')
    assert (code, set(found)) == (1, {"settings"})


@pytest.mark.older
@pytest.mark.parametrize(("backend", "asked"), [("rest", "rest v0.0.42."), ("cli", "cli.")])
def test_a_good_configuration_before_an_older_slurm(older_doctor: Doctor, backend: str, asked: str) -> None:
    code, found = older_doctor(backend=json.dumps(backend), build_host='"localhost"', build_port="1")
    assert code == 1
    assert problems(found) == {"build host"}  # nobody listens there; all else is well
    assert found["versions"]["seen"].startswith("Slurm 24.11")
    assert found["versions"]["seen"].endswith(f"asked by {asked}")
    for check in ("job age", "accounting", "association", "partition", "session folder", "node path"):
        assert found[check]["verdict"] == "ok", found[check]


@pytest.mark.older
def test_an_older_slurmrestd_alone_does_not_tell_its_configuration(older_doctor: Doctor) -> None:
    none = {"files": '"mounted"', "ssh_host": '""', "build_host": '""', "known_hosts_file": '""'}
    _, found = older_doctor(**none)
    assert found["configuration"]["verdict"] == "skipped"
    assert "from 26.05 on" in found["configuration"]["advice"]
    assert found["versions"]["seen"].endswith("asked by rest v0.0.42.")
    assert found["login"]["verdict"] == "skipped"


def test_accounting_that_does_not_answer(doctor: Doctor, slurm_cluster: Cluster) -> None:
    slurm_cluster.service("ctl", "stop", "slurmdbd")
    try:
        for backend in ("rest", "cli"):
            code, found = doctor(backend=json.dumps(backend))
            assert code == 1
            assert "accounting" in problems(found), found
            assert "slurmdbd" in found["accounting"]["advice"]
    finally:
        slurm_cluster.service("ctl", "start", "slurmdbd")


def test_a_key_in_place_of_the_user_ca_that_nobody_authorised(doctor: Doctor, tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    code, found = doctor(ssh_key_file=json.dumps(str(key)))
    assert (code, set(found)) == (1, {"settings"})  # beside the CA
    assert "more than one of" in found["settings"]["seen"]


def test_a_certificate_of_slurmrestd_that_is_no_file(doctor: Doctor, tmp_path: Path) -> None:
    code, found = doctor(rest_url='"https://localhost:1"', rest_ca_file=json.dumps(str(tmp_path / "none.pem")))
    assert (code, set(found)) == (1, {"settings"})
    assert "rest_ca_file" in found["settings"]["seen"]
