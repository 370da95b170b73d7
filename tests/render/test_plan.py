"""From a recipe and answers to a plan."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import ParameterInvalid, RecipeInvalid
from gateway.model.plan import ClusterDefaults, Plan
from gateway.model.recipe import Recipe
from gateway.render.secret import secret_values

MakeRecipe = Callable[..., Recipe]
MakePlan = Callable[..., Plan]

SERVER: dict[str, Any] = {
    "kind": "service",
    "parameters": {"name": {"type": "string", "default": "tiny"}, "threads": {"type": "integer", "default": 2}},
    "command": ["serve", "--name", "{{ name }}", "{{ ['-t', threads] if threads > 1 else [] }}"],
    "service": {"protocol": "openai", "model": "{{ name }}"},
    "resources": {"cpus": "{{ threads }}", "time": "2h", "memory": "4G", "gpus": {"count": "{{ threads - 1 }}"}},
}


def test_everything_is_worked_out(make_recipe: MakeRecipe, plan_of: MakePlan) -> None:
    plan = plan_of(make_recipe(**SERVER, env={"N": "{{ threads }}", "M": "{{ none }}"}), {"threads": "3"})
    assert plan.command == ("serve", "--name", "tiny", "-t", "3")
    assert plan.env == {"N": "3"}
    assert plan.parameters == {"name": "tiny", "threads": 3}
    assert (plan.resources.cpus, plan.resources.time, plan.resources.memory) == (3, 120, 4096)
    assert plan.resources.gpus.gres == "gpu:2"
    assert plan.service is not None
    assert plan.service.model == "tiny"
    assert plan.service.probe.kind == "completion"
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_the_caller_comes_before_the_recipe_and_the_cluster_after_it(
    make_recipe: MakeRecipe, plan_of: MakePlan
) -> None:
    recipe = make_recipe(resources={"time": "1h", "partition": "gpu", "gpus": {"count": 1, "type": "a100"}})
    defaults = ClusterDefaults(partition="cpu", account="research")
    plan = plan_of(recipe, resources={"time": "30m", "gpus": 2, "qos": None}, defaults=defaults)
    asked = plan.resources
    assert (asked.time, asked.partition, asked.account, asked.qos) == (30, "gpu", "research", None)
    assert asked.gpus.gres == "gpu:a100:2"


@pytest.mark.parametrize(
    ("given", "gres"),
    [
        ("2", "gpu:2"),
        ("a100:2", "gpu:a100:2"),
        ("a100", "gpu:a100:1"),
        (0, None),
        ({"count": 4, "share": "shard"}, "shard:4"),
    ],
)
def test_gpus_as_callers_give_them(make_recipe: MakeRecipe, plan_of: MakePlan, given: object, gres: str) -> None:
    assert plan_of(make_recipe(), resources={"gpus": given}).resources.gpus.gres == gres


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"times": "1h"}, "no resource 'times'"),
        ({"time": "soon"}, "resources.time: 'soon' is not a time limit"),
        ({"partition": "cpu\n#SBATCH --uid=0"}, "resources.partition: "),
        ({"gpus": {"count": 1, "kind": "a100"}}, "no resource 'gpus.kind'"),
        ({"gpus": "a100:many"}, "resources.gpus.count"),
        ({"nodes": 2, "tasks": 1}, "cannot use 2 nodes"),
        ({"nodes": "{{ 2 }}"}, "resources.nodes"),
    ],
)
def test_resources_that_are_refused(
    make_recipe: MakeRecipe, plan_of: MakePlan, resources: dict[str, object], said: str
) -> None:
    with pytest.raises(ParameterInvalid, match=said):
        plan_of(make_recipe(), resources=resources)


@pytest.mark.parametrize("field", ["nodes", "tasks"])
def test_a_service_runs_once(make_recipe: MakeRecipe, plan_of: MakePlan, field: str) -> None:
    with pytest.raises(ParameterInvalid, match="runs once, on one node"):
        plan_of(make_recipe(**SERVER), resources={field: 2})


def test_a_parameter_that_makes_no_resource_is_the_callers_fault(make_recipe: MakeRecipe, plan_of: MakePlan) -> None:
    recipe = make_recipe(parameters={"n": {"type": "integer"}}, resources={"nodes": "{{ n }}"})
    with pytest.raises(ParameterInvalid, match=r"resources\.nodes: 0 is not"):
        plan_of(recipe, {"n": 0})


def test_an_expression_that_fails_names_the_recipe_and_the_field(make_recipe: MakeRecipe, plan_of: MakePlan) -> None:
    recipe = make_recipe(parameters={"n": {"type": "integer"}}, command=["p", "{{ 1 // n }}"])
    with pytest.raises(RecipeInvalid, match=r"recipe probe 1, command\[1\]: .*zero"):
        plan_of(recipe, {"n": 0})


def test_a_command_must_leave_a_program(make_recipe: MakeRecipe, plan_of: MakePlan) -> None:
    with pytest.raises(RecipeInvalid, match="no program"):
        plan_of(make_recipe(command=["{{ none }}"]))


def test_mounted_paths_are_seen_where_the_container_has_them(make_recipe: MakeRecipe, plan_of: MakePlan) -> None:
    recipe = make_recipe(
        parameters={
            "model": {"type": "path", "mount": True, "image_paths": ["/opt/models"], "default": "/opt/models/t.gguf"},
            "data": {"type": "path", "mount": True, "multiple": True, "default": []},
            "plain": {"type": "path", "required": False},
        },
        command=["p", "{{ model }}", "{{ data }}", "{{ plain }}"],
        mounts=[{"source": "{{ plain }}", "target": "/plain", "writable": True}],
    )
    assert plan_of(recipe).command == ("p", "/opt/models/t.gguf")
    assert plan_of(recipe).mounts == ()
    plan = plan_of(recipe, {"model": "~/m, 1/a b.gguf", "data": ["/d/x/", "y"], "plain": "/p"})
    assert plan.command == ("p", "/inputs/model/a b.gguf", "/inputs/data/0/x", "/inputs/data/1/y", "/p")
    assert [(mount.source, mount.target, mount.writable) for mount in plan.mounts] == [
        ("m, 1/a b.gguf", "/inputs/model/a b.gguf", False),
        ("/d/x", "/inputs/data/0/x", False),
        ("y", "/inputs/data/1/y", False),
        ("/p", "/plain", True),
    ]
    for bad in ("/a/../etc/shadow", "~bob/x", "/a\nb"):
        with pytest.raises(ParameterInvalid, match="cannot be mounted"):
            plan_of(recipe, {"model": bad})


def test_a_script_gets_its_parameters_by_name(make_recipe: MakeRecipe, plan_of: MakePlan) -> None:
    recipe = make_recipe(
        script="echo",
        parameters={
            "word": {"type": "string"},
            "flag": {"type": "boolean", "default": True},
            "items": {"type": "string", "multiple": True, "default": []},
            "absent": {"type": "string", "required": False},
        },
    )
    plan = plan_of(recipe, {"word": "{{ flag }}", "items": ["a", "b c"]})
    assert plan.env == {
        "PARAM_WORD": "{{ flag }}",
        "PARAM_FLAG": "true",
        "PARAM_ITEMS_COUNT": "2",
        "PARAM_ITEMS_0": "a",
        "PARAM_ITEMS_1": "b c",
    }


def test_secrets_stay_out_of_the_plan(make_recipe: MakeRecipe, plan_of: MakePlan) -> None:
    recipe = make_recipe(
        script="echo",
        parameters={
            "token": {"type": "secret"},
            "other": {"type": "secret", "required": False},
        },
        secrets={"HF_TOKEN": {"parameter": "token"}, "OTHER": {"parameter": "other"}},
    )
    answers = {"token": "hf_very_secret"}
    plan = plan_of(recipe, answers)
    assert plan.secrets == {"HF_TOKEN": "token"}
    assert "hf_very_secret" not in plan.model_dump_json()
    assert secret_values(recipe, answers, {}) == {"HF_TOKEN": "hf_very_secret"}


def test_a_served_model_needs_a_name(make_recipe: MakeRecipe, plan_of: MakePlan) -> None:
    with pytest.raises(ParameterInvalid, match="has no name"):
        plan_of(make_recipe(**SERVER), {"name": ""})


@pytest.mark.parametrize(
    ("service", "probe"),
    [
        ({}, {"kind": "http", "path": "/health", "status": 200}),
        ({"probe": {"path": "/api", "status": 302, "timeout": "3s"}}, {"path": "/api", "status": 302, "timeout": 3}),
        ({"probe": {"kind": "tcp"}}, {"kind": "tcp"}),
        ({"protocol": "openai", "model": "m"}, {"kind": "completion", "model": "m", "path": "/v1/completions"}),
        ({"protocol": "openai", "model": "m", "probe": {"kind": "http"}}, {"kind": "http"}),
    ],
)
def test_probes(
    make_recipe: MakeRecipe, plan_of: MakePlan, service: dict[str, object], probe: dict[str, object]
) -> None:
    planned = plan_of(make_recipe(kind="service", service=service)).service
    assert planned is not None
    assert probe.items() <= planned.probe.model_dump().items()
