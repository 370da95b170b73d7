"""Commands: what is said, and what is understood."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.job import JobOptions, JobScript, JobState
from gateway.slurm import commands, rest_parse

MARK = "|5eca7f|"


def row(*fields: str) -> str:
    return "".join(f"{field}{MARK}" for field in fields) + "\n"


def squeue_row(**changed: str) -> str:
    fields = {
        "id": "7",
        "name": "sluice-x-1",
        "user": "alice",
        "state": "RUNNING",
        "reason": "None",
        "nodes": "node[1-2]",
        "comment": "(null)",
        "restarts": "0",
        "exit": "0:0",
        "submit": "1795230136",
        "start": "1795230137",
        "end": "N/A",
        "limit": "1-00:00:00",
    }
    return row(*{**fields, **changed}.values())


def test_a_queue_row() -> None:
    (job,) = commands.parse_squeue(squeue_row(), MARK)
    assert (job.job_id, job.name, job.user, job.state) == (7, "sluice-x-1", "alice", JobState.RUNNING)
    assert (job.reason, job.nodes, job.comment, job.time_limit) == ("", "node[1-2]", "", 1440)
    assert (job.exit_code, job.signal, job.end_time) == (None, None, None)
    assert job.submit_time is not None
    assert job.submit_time.timestamp() == 1795230136


@pytest.mark.parametrize(
    ("state", "text", "code", "signal"),
    [
        ("FAILED", "3:0", 3, None),
        ("CANCELLED by 2001", "0:15", None, 15),
        ("COMPLETED", "0:0", 0, None),
        ("RUNNING", "0:0", None, None),
        ("FAILED", "", None, None),
    ],
)
def test_exit_codes_belong_to_ends(state: str, text: str, code: int | None, signal: int | None) -> None:
    (job,) = commands.parse_squeue(squeue_row(state=state, exit=text), MARK)
    assert (job.exit_code, job.signal) == (code, signal)


@given(st.text().filter(lambda text: MARK not in text), st.text().filter(lambda text: MARK not in text))
def test_no_name_or_comment_forges_a_row(name: str, comment: str) -> None:
    jobs = commands.parse_squeue(squeue_row(name=name, comment=comment) + squeue_row(id="8"), MARK)
    assert [job.job_id for job in jobs] == [7, 8]
    assert jobs[0].name == name
    assert jobs[0].comment in {comment, ""}


@pytest.mark.parametrize("text", ["slurm_load_jobs error", row("7", "x"), row(*(["x"] * 13)), squeue_row() + "tail"])
def test_what_was_not_asked_for_is_not_guessed_at(text: str) -> None:
    with pytest.raises(commands.Unreadable):
        commands.parse_squeue(text, MARK)


def test_nothing_is_no_jobs() -> None:
    assert commands.parse_squeue("", MARK) == []
    assert commands.parse_sacct("\n", MARK) == []


@pytest.mark.parametrize(
    ("stdout", "job_id"),
    [("123\n", 123), ("123;cluster\n", 123), ("Welcome!\n123\n", 123), ("", None), ("no id\n", None)],
)
def test_the_job_id_of_sbatch(stdout: str, job_id: int | None) -> None:
    assert commands.parse_sbatch(stdout) == job_id


OPTIONS = JobOptions(
    name="sluice-x-1",
    partition="gpu",
    account="research",
    qos="normal",
    time_limit=30,
    nodes=2,
    tasks=4,
    tasks_per_node=2,
    cpus_per_task=3,
    memory=2048,
    gres="gpu:a100:2,shard:1",
    constraint="fast&big",
    exclusive=True,
    requeue=True,
    comment="sluice/1@0a1b2c3d",
    extra="more",
    output="/home/alice/o-%j.log",
    working_directory="/home/alice",
)


def test_sbatch_and_rest_are_told_the_same() -> None:
    command = commands.sbatch(JobScript(options=OPTIONS, text="#!/bin/sh\n"))
    assert command.stdin == b"#!/bin/sh\n"
    assert command.name == "sbatch"
    assert set(command.argv[5:]) == {
        "--parsable",
        "--export=ALL",
        "--job-name=sluice-x-1",
        "--nodes=2",
        "--ntasks=4",
        "--ntasks-per-node=2",
        "--cpus-per-task=3",
        "--output=/home/alice/o-%j.log",
        "--chdir=/home/alice",
        "--requeue",
        "--time=30",
        "--mem=2048M",
        "--partition=gpu",
        "--account=research",
        "--qos=normal",
        "--constraint=fast&big",
        "--gres=gpu:a100:2,shard:1",
        "--exclusive",
        "--comment=sluice/1@0a1b2c3d",
        "--extra=more",
    }
    body = rest_parse.submission(JobScript(options=OPTIONS, text="#!/bin/sh\n"))
    assert body["script"] == "#!/bin/sh\n"
    assert {key: value for key, value in body["job"].items() if key != "environment"} == {
        "name": "sluice-x-1",
        "nodes": "2",
        "minimum_nodes": 2,
        "maximum_nodes": 2,
        "tasks": 4,
        "tasks_per_node": 2,
        "cpus_per_task": 3,
        "standard_output": "/home/alice/o-%j.log",
        "current_working_directory": "/home/alice",
        "requeue": True,
        "time_limit": {"set": True, "infinite": False, "number": 30},
        "memory_per_node": {"set": True, "infinite": False, "number": 2048},
        "partition": "gpu",
        "account": "research",
        "qos": "normal",
        "constraints": "fast&big",
        "tres_per_node": "gres/gpu:a100:2,gres/shard:1",
        "shared": ["none"],
        "comment": "sluice/1@0a1b2c3d",
        "extra": "more",
    }


def test_what_is_left_open_is_not_said() -> None:
    script = JobScript(options=JobOptions(name="n"), text="")
    told = commands.sbatch(script).argv[5:]
    assert not [word for word in told if word.startswith(("--part", "--acc", "--qos", "--mem", "--time", "--gres"))]
    assert "--no-requeue" in told
    job = rest_parse.submission(script)["job"]
    assert not {"partition", "account", "qos", "memory_per_node", "time_limit", "tres_per_node", "shared"} & set(job)


@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])), max_size=4))
def test_arguments_arrive_as_they_are(words: list[str]) -> None:
    command = commands.Command((*commands.scancel(1).argv[:4], "printf", "%s\\0", "x", *words))
    ran = subprocess.run(command.argv, capture_output=True, check=True)
    assert ran.stdout.decode().split("\0")[:-1] == ["x", *words]


def test_the_program_starts_in_a_clean_environment() -> None:
    command = commands.Command((*commands.sbatch(JobScript(options=OPTIONS, text="")).argv[:4], "env"))
    surroundings = {"PATH": "/usr/bin:/bin", "SECRET": "1", "SBATCH_PARTITION": "x", "SLURM_CONF": "/a b"}
    ran = subprocess.run(command.argv, capture_output=True, check=True, env=surroundings, text=True, input="")
    assert set(ran.stdout.split("\n")) == {f"PATH={rest_parse.PATH}", "SLURM_CONF=/a b", ""}


def test_a_missing_program_is_said() -> None:
    command = commands.Command((*commands.scancel(1).argv[:4], "no-such-program"))
    ran = subprocess.run(command.argv, capture_output=True, check=False, text=True)
    assert (ran.returncode, ran.stderr) == (127, "no-such-program: command not found\n")


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_half_a_script_is_not_submitted(shell: str) -> None:
    text = "#!/bin/sh\necho 'é☃' \\n %s $HOME `id`\n\n\n"
    command = commands.sbatch(JobScript(options=OPTIONS, text=text))
    argv = [shell, *command.argv[1:4], "cat"]  # in place of sbatch
    surroundings = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    assert command.stdin is not None
    whole = subprocess.run(argv, input=command.stdin, capture_output=True, check=False, env=surroundings)
    assert (whole.returncode, whole.stdout) == (0, text.encode())
    half = subprocess.run(argv, input=command.stdin[:-1], capture_output=True, check=False, env=surroundings)
    assert (half.returncode, half.stdout, half.stderr) == (65, b"", b"the script was cut short\n")
