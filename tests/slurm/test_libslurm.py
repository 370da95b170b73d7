"""The libslurm back end where no Slurm is needed: what is told is read, and who may use it."""

import os
from typing import Any

import pytest

from gateway.errors import SettingsInvalid
from gateway.model.intent import SEND_WITHIN, SUBMIT_LIFE
from gateway.model.job import JobOptions, JobScript, JobState
from gateway.settings import ClusterSettings
from gateway.slurm import connect, libslurm_parse
from gateway.slurm.libslurm import TIMEOUT, environment, pause, signal_name
from gateway.slurm.libslurm_worker import GRACE, NoProfile, api_of, release_of

ROW: dict[str, Any] = {
    "id": 7,
    "name": "sluice-x-1",
    "user": "alice",
    "state": "FAILED",
    "reason": "NonZeroExitCode",
    "nodes": "node1",
    "exit_code": 9,
    "exit_signal": 0,
    "raw_exit": None,
    "comment": "c",
    "extra": "e",
    "restarts": 1,
    "submitted": 1_795_243_553,
    "started": 1_795_243_554,
    "ended": 1_795_243_555,
    "limit": 5,
}


def script(**options: Any) -> JobScript:
    return JobScript(options=JobOptions(name="sluice-x-1", **options), text="#!/bin/sh\n")


def test_a_job_is_read() -> None:
    job = libslurm_parse.job(ROW)
    assert (job.job_id, job.name, job.user, job.state) == (7, "sluice-x-1", "alice", JobState.FAILED)
    assert (job.reason, job.nodes, job.comment, job.restarts, job.time_limit) == ("NonZeroExitCode", "node1", "c", 1, 5)
    assert job.submit_time is not None
    assert job.end_time is not None
    assert (job.end_time - job.submit_time).total_seconds() == 2
    assert libslurm_parse.job(ROW, "extra").comment == "e"


def test_a_pending_job_has_no_exit_code_and_its_times_may_be_missing() -> None:
    row = {**ROW, "state": "PENDING", "reason": "None", "nodes": "", "started": None, "ended": None, "limit": None}
    job = libslurm_parse.job(row)
    assert (job.state, job.exit_code, job.signal, job.reason) == (JobState.PENDING, None, None, "")
    assert (job.start_time, job.end_time, job.time_limit) == (None, None, None)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"exit_code": 9, "exit_signal": 0, "raw_exit": 137 << 8}, (137, None)),
        ({"exit_code": 9, "exit_signal": 0, "raw_exit": None}, (9, None)),
        ({"exit_code": 0, "exit_signal": 15, "raw_exit": None}, (None, 15)),
        ({"exit_code": 0, "exit_signal": 0, "raw_exit": 15}, (None, 15)),
        ({"exit_code": 0, "exit_signal": 0, "raw_exit": 0}, (0, None)),
    ],
)
def test_an_exit_code_is_the_one_that_slurm_keeps(row: dict[str, Any], told: tuple[int | None, int | None]) -> None:
    assert libslurm_parse.exit_code(row) == told


def test_a_submission_says_what_was_asked_and_nothing_more() -> None:
    said = libslurm_parse.submission(
        script(
            partition="gpu", time_limit=7, memory=123, gres="gpu:a100:2,gres/shard", exclusive=True, tasks_per_node=2
        )
    )
    options = said["options"]
    assert options["gres_per_node"] == {"gpu:a100": 2, "shard": 1}
    assert (options["memory_per_node"], options["time_limit"], options["partitions"]) == ("123M", 7, "gpu")
    assert (options["resource_sharing"], options["ntasks_per_node"]) == ("exclusive", 2)
    assert said["environment"]["PATH"] == "/usr/local/bin:/usr/bin:/bin"
    bare = libslurm_parse.submission(script())["options"]
    assert not {"gres_per_node", "memory_per_node", "account", "comment", "resource_sharing"} & set(bare)
    assert bare["is_requeueable"] is False


def test_the_inventory_is_read() -> None:
    node = {
        "name": "n1",
        "address": "n1",
        "state": "MIXED+DRAIN",
        "reason": "broken",
        "partitions": ["cpu"],
        "cpus": 16,
        "alloc_cpus": 2,
        "real_memory": 64000,
        "alloc_memory": 50,
        "gres": "gpu:a100:4,gpu:a100_1g.10gb:2",
        "gres_used": "gpu:1,gpu:a100:1",
        "features": [],
    }
    partition = {
        "name": "cpu",
        "state": "UP",
        "default": True,
        "max_time": "UNLIMITED",
        "default_time": 60,
        "nodes": "n1",
        "total_nodes": 1,
        "total_cpus": 16,
    }
    inventory = libslurm_parse.inventory({"nodes": [node], "partitions": [partition]})
    assert inventory.nodes[0].states == ("MIXED", "DRAIN")
    assert not inventory.nodes[0].available
    assert [(gpus.type, gpus.used) for gpus in inventory.nodes[0].gpus] == [("a100", 1), ("a100_1g.10gb", 0)]
    assert (inventory.partitions[0].up, inventory.partitions[0].max_time) == (True, None)


def test_the_configuration_has_slurms_own_names() -> None:
    told: dict[str, dict[str, Any]] = {
        "values": {"kill_wait_time": 30, "accounting_storage_enforce": ["LIMITS", "QOS"], "task_plugin": None},
        "cgroup": {"constrain_devices": True},
    }
    assert libslurm_parse.configuration(told) == {
        "KillWait": "30",
        "AccountingStorageEnforce": "limits,qos",
        "TaskPlugin": "(null)",
        "ConstrainDevices": "yes",
    }


def test_the_pause_grows_and_has_an_end() -> None:
    pauses = [pause(failures) for failures in range(12)]
    assert pauses[:4] == [0.0, 0.5, 1.0, 2.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30.0


def test_a_submit_is_over_before_it_is_looked_up_for_good() -> None:
    assert (SUBMIT_LIFE - SEND_WITHIN).total_seconds() > TIMEOUT + GRACE


def test_the_process_gets_nothing_that_changes_what_is_asked() -> None:
    outer = {
        "SLURM_CONF": "/c",
        "SLURM_CLUSTERS": "other",
        "PYTHONPATH": "/x",
        "SLUICE_TOKEN": "t",
        "LD_LIBRARY_PATH": "/l",
    }
    assert environment(outer) == {"SLURM_CONF": "/c", "LD_LIBRARY_PATH": "/l"}


@pytest.mark.parametrize(("code", "name"), [(-11, "SIGSEGV"), (139, "SIGSEGV"), (1, ""), (0, "")])
def test_an_end_by_a_signal_is_named(code: int, name: str) -> None:
    assert signal_name(code) == name


@pytest.mark.parametrize(
    ("release", "api"), [("24.05", 41), ("24.11", 42), ("25.05", 43), ("25.11", 44), ("26.05", 45)]
)
def test_a_release_has_its_number(release: str, api: int) -> None:
    assert api_of(release) == api
    assert release_of(api) == release


def test_no_profile_is_something_with_nothing_in_it() -> None:
    assert NoProfile()
    assert list(NoProfile()) == []


def test_it_is_for_who_runs_the_gateway_and_never_for_root() -> None:
    with pytest.raises(SettingsInvalid, match="root" if os.geteuid() == 0 else "nobody-else"):
        connect(ClusterSettings(backend="pyslurm", unix_user="nobody-else"), name="here")
