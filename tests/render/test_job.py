"""From a plan to the job that Slurm is given."""

import hashlib
import json
import re
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import Invalid
from gateway.model.job import JobOptions
from gateway.model.jobspec import JobSpec
from gateway.model.plan import Plan
from gateway.model.recipe import Recipe
from gateway.model.resources import Resources
from gateway.render.job import JobTarget, directives, job_options, render

MakeRecipe = Callable[..., Recipe]
MakePlan = Callable[..., Plan]


def heredoc(script: str, word: str) -> str:
    found = re.search(rf"<<'{word}'[^\n]*\n(.*?)\n{word}\n", script, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_script_carries_the_spec_and_the_agent(
    make_recipe: MakeRecipe, plan_of: MakePlan, target: JobTarget
) -> None:
    text = render(plan_of(make_recipe(command=["program", "SLUICE_SPEC\n#SBATCH --uid=0"])), target).text
    spec = JobSpec.model_validate_json(heredoc(text, "SLUICE_SPEC"))
    assert spec.container.command == ("program", "SLUICE_SPEC\n#SBATCH --uid=0")
    assert (spec.session, spec.attempt, spec.directory) == (
        target.session_id,
        2,
        f".sluice/sessions/{target.session_id}",
    )
    agent = b64decode(heredoc(text, "SLUICE_AGENT"))
    assert hashlib.sha256(agent).hexdigest() in text
    assert agent.startswith(b"PK")


def test_the_same_plan_gives_the_same_bytes(make_recipe: MakeRecipe, plan_of: MakePlan, target: JobTarget) -> None:
    plan = plan_of(make_recipe())
    assert render(plan, target) == render(Plan.model_validate_json(plan.model_dump_json()), target)


def test_options_and_sbatch_lines_say_the_same(target: JobTarget) -> None:
    asked = Resources.model_validate(
        {
            "nodes": 2,
            "cpus": 4,
            "memory": "16G",
            "time": "1-00:00:00",
            "partition": "gpu,debug",
            "account": "research",
            "qos": "normal",
            "constraint": "a100|h100",
            "gpus": {"count": 2, "type": "a100"},
            "exclusive": True,
        }
    )
    options = job_options(asked, target, requeue=True)
    assert options.tasks_per_node == 1
    assert directives(options) == [
        f"--job-name=sluice-{target.session_id.lower()}-2",
        "--partition=gpu,debug",
        "--account=research",
        "--qos=normal",
        "--time=1440",
        "--nodes=2",
        "--ntasks=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=4",
        "--mem=16384M",
        "--gres=gpu:a100:2",
        "--constraint=a100|h100",
        "--chdir=/",
        "--output=/dev/null",
        "--exclusive",
        "--requeue",
    ]


@pytest.mark.parametrize("value", ["a\n#SBATCH --uid=0", "a b", "--uid=0", "", "a#b", "a'b", 'a"b', "a\\b", "ä"])
def test_an_option_that_is_not_one_word_is_refused(value: str) -> None:
    with pytest.raises(Invalid, match="cannot be given to Slurm"):
        directives(JobOptions(name="job", partition=value))


def test_several_tasks_are_started_by_srun(make_recipe: MakeRecipe, plan_of: MakePlan, target: JobTarget) -> None:
    plan = plan_of(make_recipe(resources={"nodes": 2, "tasks": 4, "cpus": 3}))
    script = render(plan, target)
    spec = json.loads(heredoc(script.text, "SLUICE_SPEC"))
    assert spec["launcher"] == ["srun", "--kill-on-bad-exit=1", "--nodes=2", "--ntasks=4", "--cpus-per-task=3"]
    assert "need srun" in script.text
    assert script.options.tasks_per_node is None


@pytest.mark.parametrize(
    ("gpus", "vendor"),
    [(0, "none"), (1, "nvidia"), ("a100:2", "nvidia"), ("mi300x:1", "amd"), ({"count": 2, "share": "shard"}, "nvidia")],
)
def test_the_container_gets_the_vendors_devices(
    make_recipe: MakeRecipe, plan_of: MakePlan, target: JobTarget, gpus: object, vendor: str
) -> None:
    text = render(plan_of(make_recipe(), resources={"gpus": gpus}), target).text
    assert json.loads(heredoc(text, "SLUICE_SPEC"))["container"]["gpu"] == vendor


def test_no_secret_is_in_the_job(make_recipe: MakeRecipe, plan_of: MakePlan, target: JobTarget) -> None:
    recipe = make_recipe(parameters={"token": {"type": "secret"}}, secrets={"TOKEN": {"parameter": "token"}})
    script = render(plan_of(recipe, {"token": "hf_very_secret"}), target)
    assert "hf_very_secret" not in script.model_dump_json()
    assert json.loads(heredoc(script.text, "SLUICE_SPEC"))["secrets"] == ["TOKEN"]


@pytest.mark.parametrize(
    "root", ["/scratch/o'neil $(id)/sessions", "~/my sessions", ".sluice/sessions/", "a;b&c|d", '"quoted"', "/ä/ö"]
)
def test_folders_of_any_name_stay_one_word(
    make_recipe: MakeRecipe, plan_of: MakePlan, target: JobTarget, root: str
) -> None:
    text = render(plan_of(make_recipe()), target.model_copy(update={"session_root": root})).text
    line = next(line for line in text.splitlines() if line.startswith("session="))
    said = subprocess.run(["bash", "-c", f'{line}\nprintf %s "$session"'], capture_output=True, check=True).stdout
    assert said.decode() == f"{root.removeprefix('~/').rstrip('/')}/{target.session_id}"


@pytest.mark.parametrize("fields", [{}, {"kind": "service", "service": {}}, {"resources": {"nodes": 3}}])
def test_scripts_are_clean(
    make_recipe: MakeRecipe, plan_of: MakePlan, target: JobTarget, fields: dict[str, Any]
) -> None:
    """`bash -n`, and shellcheck (Debian's package of that name) with every check that is on by default."""
    text = render(plan_of(make_recipe(**fields)), target).text
    assert shutil.which("shellcheck"), "install Debian's shellcheck"
    for checker in (["bash", "-n"], ["shellcheck", "--shell=bash", "-"]):
        done = subprocess.run(checker, input=text, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
