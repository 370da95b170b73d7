"""Rendered jobs on a real Slurm with the real Apptainer: what the program received, and what Slurm granted."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from gateway.cluster import Cluster
from gateway.cluster.files import remove_tree
from gateway.model.job import JobScript
from gateway.model.plan import PinnedImage
from gateway.model.recipe import Recipe
from gateway.render.job import JobTarget, render
from gateway.render.plan import make_plan

pytestmark = pytest.mark.cluster

# Written by the shell and cat of the image, so that not one byte is changed on the way to the file.
RECORD = 'd=${SLURM_PROCID:-0}; printf "%s\\0" "$@" >"args.$d"; cat /proc/self/environ >"env.$d"'

NASTY = [
    "", " ", "'", '"', "$(touch pwned)", "`touch pwned`", "${HOME}", "\\", "\\n", "\n", "\r\n", "-x", "--", "a,b,c",
    "a\nSLUICE_SPEC\ntouch pwned\n", "\n#SBATCH --uid=0\n", "--bind=/etc:/etc", "a:b:ro", "a=b", "a;b&&c|d>e<f",
    "*", "~", "!!", "%s%n", "{{ 7 * 7 }}", "\t\v\f\x1b[31m\x7f", "ünïcödé 漢字 🎛", "\u2028\u2029", "x" * 5000,
]  # fmt: skip


class Done(NamedTuple):
    """A finished job: exit code, and per task its arguments and environment."""

    code: int
    arguments: list[list[str]]
    environment: list[dict[str, str]]
    work: Path
    log: str


@pytest.fixture(scope="module")
def place(slurm_cluster: Cluster) -> Iterator[str]:
    """A folder of the test's own in alice's home, with an image of busybox."""
    name = f"render-{uuid4().hex[:8]}"
    make = f"""
        set -e
        mkdir -p {name}/tree/bin {name}/tree/proc {name}/tree/sys {name}/tree/dev {name}/tree/etc {name}/tree/tmp
        cp "$(command -v busybox)" {name}/tree/bin/
        for applet in sh cat ls touch; do ln -s busybox {name}/tree/bin/$applet; done
        apptainer --quiet build {name}/image.sif {name}/tree
        mkdir "{name}/it's, data"
        echo inside >"{name}/it's, data/file"
    """
    slurm_cluster.exec("node1", ["sh", "-c", f"cd /home/alice && {make}"], user="alice")
    yield name
    remove_tree(slurm_cluster.home / "alice" / name)


@pytest.fixture(scope="module")
def submit(slurm_cluster: Cluster, place: str) -> Callable[..., Done]:
    """Render a recipe, submit it as alice with sbatch, wait for its end."""
    home = slurm_cluster.home / "alice" / place
    count = 0

    def run(answers: dict[str, object], resources: dict[str, object] | None = None, **fields: Any) -> Done:
        nonlocal count
        count += 1
        script = rendered(answers, resources or {}, fields, f"T{count}")
        path = home / f"job{count}.sh"
        path.write_text(script.text)
        path.chmod(0o644)
        argv = ["sbatch", "--wait", "--parsable", f"/home/alice/{place}/job{count}.sh"]
        done = subprocess.run(
            slurm_cluster.exec_argv("login", argv, user="alice"),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        session = home / "sessions" / f"T{count}"
        tasks = range(script.options.tasks)
        assert not list(home.rglob("pwned"))
        logs = [path.read_text() for path in sorted(session.glob("*.log"))]
        assert (session / "work/args.0").exists(), (done, logs)
        return Done(
            done.returncode,
            [words(session / f"work/args.{task}") for task in tasks],
            [dict(word.partition("=")[::2] for word in words(session / f"work/env.{task}")) for task in tasks],
            session / "work",
            "\n".join(logs),
        )

    def rendered(
        answers: dict[str, object], resources: dict[str, object], fields: dict[str, Any], session: str
    ) -> JobScript:
        base = {"name": "probe", "version": "1", "kind": "batch", "image": "busybox", "resources": {"time": "2m"}}
        image = PinnedImage(name="busybox", path=f"/home/alice/{place}/image.sif", sha256="1" * 64)
        plan = make_plan(Recipe.model_validate(base | fields), answers, image=image, resources=resources)
        return render(plan, JobTarget(session_id=session, session_root=f"~/{place}/sessions"))

    return run


def words(path: Path) -> list[str]:
    return path.read_bytes().decode().split("\0")[:-1]


def test_hostile_values_arrive_unchanged(submit: Callable[..., Done]) -> None:
    done = submit(
        {"many": NASTY},
        parameters={"many": {"type": "string", "multiple": True}},
        command=["/bin/sh", "-c", RECORD, "sh", "{{ many }}", "end"],
        env={f"VALUE_{place}": f"{{{{ many[{place}] }}}}" for place in range(len(NASTY))},
    )
    assert done.code == 0, done.log
    assert done.arguments == [[*NASTY, "end"]]
    assert [done.environment[0][f"VALUE_{place}"] for place in range(len(NASTY))] == NASTY


def test_a_script_gets_hostile_values_as_variables(submit: Callable[..., Done]) -> None:
    done = submit(
        {"many": NASTY},
        parameters={"many": {"type": "string", "multiple": True}},
        script=f'#!/bin/sh\nset -- "$PARAM_MANY_COUNT" "$PARAM_MANY_4"\n{RECORD}\nexit 7\n',
    )
    assert done.code == 7
    assert done.arguments == [[str(len(NASTY)), NASTY[4]]]
    assert [done.environment[0][f"PARAM_MANY_{place}"] for place in range(len(NASTY))] == NASTY


def test_a_mounted_path_is_there_and_read_only(submit: Callable[..., Done], place: str) -> None:
    done = submit(
        {"data": f"~/{place}/it's, data"},
        parameters={"data": {"type": "path", "mount": True}},
        command=[
            "/bin/sh",
            "-c",
            f'{RECORD}; cat "$1/file" >read; touch "$1/new" || echo refused >>read',
            "sh",
            "{{ data }}",
        ],
    )
    assert done.arguments == [["/inputs/data/it's, data"]]
    assert (done.work / "read").read_text() == "inside\nrefused\n"


def test_slurm_grants_what_the_plan_asks(submit: Callable[..., Done]) -> None:
    done = submit(
        {},
        {"gpus": "a100:2", "cpus": 3, "memory": "512M", "partition": "gpu"},
        command=["/bin/sh", "-c", RECORD, "sh"],
    )
    assert done.code == 0, done.log
    seen = done.environment[0]
    assert (seen["SLURM_GPUS_ON_NODE"], seen["SLURM_CPUS_PER_TASK"], seen["SLURM_MEM_PER_NODE"]) == ("2", "3", "512")
    assert seen["SLURM_JOB_PARTITION"] == "gpu"


def test_several_nodes_run_the_program_once_each(submit: Callable[..., Done]) -> None:
    done = submit(
        {"value": "it's $(touch pwned)\n-x"},
        parameters={"value": {"type": "string"}},
        resources={"nodes": 2, "time": "2m", "cpus": 2},
        command=["/bin/sh", "-c", RECORD, "sh", "{{ value }}"],
        env={"VALUE": "{{ value }}"},
    )
    assert done.code == 0, done.log
    assert done.arguments == [["it's $(touch pwned)\n-x"]] * 2
    assert [seen["VALUE"] for seen in done.environment] == ["it's $(touch pwned)\n-x"] * 2
    assert [seen["SLURM_NODEID"] for seen in done.environment] == ["0", "1"]
    heads = {(seen["SLUICE_HEAD_NODE"], seen["SLUICE_HEAD_PORT"]) for seen in done.environment}
    assert len(heads) == 1
