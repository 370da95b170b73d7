"""Limits: one source for the decision and for what forms show, so both must agree; and locks that fill answers in."""

import math
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core import checking, policies
from gateway.core.policies import Policies
from gateway.errors import PolicyDenied
from gateway.model.limit import Circumstances, shown
from gateway.model.plan import PinnedImage
from gateway.model.policy import CheckRequest, Subject
from gateway.model.principal import Principal, Role
from gateway.model.recipe import Recipe, parameters_schema
from gateway.render.plan import make_plan

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
RECIPE = Recipe.model_validate(
    {
        "name": "count",
        "version": "1",
        "kind": "batch",
        "image": "base",
        "command": ["count"],
        "parameters": {
            "to": {"type": "integer", "default": 3},
            "rate": {"type": "number", "default": 0.5},
            "mode": {"type": "string", "default": "fast"},
            "gpus": {"type": "integer", "default": 0, "minimum": 0},
        },
        "resources": {"time": "1h", "gpus": {"count": "{{ gpus }}"}},
    }
)
LIMITS = """
[limit.everybody]
maximum = {gpus = 4, time = "2h", nodes = 8}
parameters.to.maximum = 9
parameters.rate.maximum = 0.75

[limit.free]
project_labels = {tier = "free"}
except_groups = ["staff"]
maximum.gpus = 1
lock.mode = "slow"
"""
IMAGE = PinnedImage(name="base", path="/i/base.sif", sha256="0" * 64)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Policies:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "limits.toml").write_text(LIMITS)
    return Policies([folder])


def fits(schema: Mapping[str, Any], answers: Mapping[str, Any]) -> bool:
    """Whether a form with this schema would take the answers."""
    for name, value in answers.items():
        one = schema["properties"][name]
        if (
            value > one.get("maximum", math.inf)
            if isinstance(value, (int, float))
            else "const" in one and value != one["const"]
        ):
            return False
    return True


@given(
    to=st.integers(0, 12),
    rate=st.floats(0, 1),
    mode=st.sampled_from(["fast", "slow"]),
    gpus=st.integers(0, 6),
    tier=st.sampled_from(["free", "paid"]),
    groups=st.frozensets(st.sampled_from(["staff", "guests"])),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_form_takes_what_the_policies_allow(
    chosen: Policies, to: int, rate: float, mode: str, gpus: int, tier: str, groups: frozenset[str]
) -> None:
    caller = Principal(name="ann", projects={"p": Role.MEMBER}, groups=groups)
    here = Circumstances("count", "p", {"tier": tier}, groups, "api", "c")
    answers = {"to": to, "rate": rate, "mode": mode, "gpus": gpus}
    schema = shown(parameters_schema(RECIPE), chosen.current.limits, RECIPE, here)
    plan = make_plan(RECIPE, answers, image=IMAGE)
    subject = Subject(owner="ann", project="p", labels={"tier": tier}, cluster="c", plan=plan)
    decision = chosen.decide(caller, "create", subject, NOON)
    assert fits(schema, answers) is decision.allowed, decision


def test_the_schema_names_the_policies(chosen: Policies) -> None:
    here = Circumstances("count", "p", {"tier": "free"}, frozenset(), "api", "c")
    schema = shown(parameters_schema(RECIPE), chosen.current.limits, RECIPE, here)
    properties = schema["properties"]
    assert properties["to"] == {
        "type": "integer",
        "default": 3,
        "maximum": 9,
        "description": "At most 9 (policy everybody.parameters.to).",
    }
    assert (properties["mode"]["const"], properties["mode"]["readOnly"]) == ("slow", True)
    assert "policy free.lock.mode" in properties["mode"]["description"]
    assert properties["gpus"]["maximum"] == 1
    assert "policy everybody.gpus" in properties["gpus"]["description"]
    resources = schema["$defs"]["resources"]["properties"]
    assert (resources["time"]["maximum"], resources["nodes"]["maximum"], resources["gpus"]["maximum"]) == (120, 8, 1)


@pytest.mark.parametrize(
    ("rule", "resources", "allowed"),
    [
        ("maximum.memory = '2G'", {"memory": "2G"}, True),
        ("maximum.memory = '2G'", {"memory": "3G"}, False),
        ("maximum.memory = '2G'", {"memory": 0}, False),
        ("maximum.memory = '2G'", {}, False),
        ("maximum.cpus = 4", {"cpus": 4}, True),
        ("maximum.cpus = 4", {}, False),
        ("maximum.gpus = 4", {"gpus": 2, "nodes": 2}, True),
        ("maximum.gpus = 4", {"gpus": 2, "nodes": 3}, False),
        ("maximum.gpus_per_node = 2", {"gpus": 2, "nodes": 3}, True),
        ("only.gpu_types = ['a100']", {"gpus": "a100:1"}, True),
        ("only.gpu_types = ['a100']", {"gpus": "h100:1"}, False),
        ("only.gpu_types = ['a100']", {"gpus": 1}, False),
        ("only.gpu_types = ['a100']", {}, True),
        ("only.partitions = ['cpu', 'gpu']", {"partition": "cpu,gpu"}, True),
        ("only.partitions = ['cpu', 'gpu']", {"partition": "cpu,big"}, False),
        ("only.partitions = ['cpu']", {}, False),
        ("only.qos = ['normal']", {"qos": "normal"}, True),
        ("only.qos = ['normal']", {"qos": "high"}, False),
        ("partitions = ['big']\nmaximum.nodes = 2", {"nodes": 3}, True),
        ("partitions = ['big']\nmaximum.nodes = 2", {"nodes": 3, "partition": "small,big"}, False),
        ("recipes = ['other']\nmaximum.nodes = 2", {"nodes": 3}, True),
        ("clusters = ['c']\nmaximum.nodes = 2", {"nodes": 3}, False),
        ("origins = ['browser']\nmaximum.nodes = 2", {"nodes": 3}, True),
    ],
)
def test_limits_decide(tmp_path: Path, rule: str, resources: dict[str, Any], allowed: bool) -> None:
    (tmp_path / "a.toml").write_text(f"[limit.a]\n{rule}\n")
    plan = make_plan(RECIPE, {}, image=IMAGE, resources=resources)
    subject = Subject(owner="ann", project="p", cluster="c", plan=plan)
    caller = Principal(name="ann", projects={"p": Role.MEMBER})
    assert Policies([tmp_path]).decide(caller, "create", subject, NOON).allowed is allowed


async def test_a_lock_answers_for_those_who_leave_it_out_and_refuses_others(
    world: Any, ask: Callable[..., Awaitable[Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "site.toml").write_text("[limit.fixed]\nlock.to = 5\n")
    object.__setattr__(world.gateway, "policies", Policies([folder]))
    assert (await ask("count")).plan.parameters["to"] == 5
    assert (await ask("count", parameters={"to": "5"})).plan.parameters["to"] == 5
    with pytest.raises(PolicyDenied, match=r"fixed\.lock\.to") as caught:
        await ask("count", parameters={"to": 6})
    assert caught.value.hint == "Allowed: to is 5 (you ask for 6)."
    request = {"action": "create", "request": {"recipe": "count", "parameters": {"to": 6}}}
    decision = await checking.check(world.gateway, world.caller, CheckRequest.model_validate(request))
    assert (decision.allowed, decision.policy) == (False, "fixed.lock.to")
    assert policies.schema_text().startswith("// What policies can speak of")
