"""Policies that are put aside because they are about others: nothing is decided otherwise than by all of them."""

import itertools
import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core import policy_question
from gateway.core.policies import Policies, schema_text
from gateway.core.policy_file import Rule
from gateway.core.policy_guard import facts_of
from gateway.model.plan import PinnedImage, Plan
from gateway.model.policy import Action, Subject
from gateway.model.principal import Principal, Role
from gateway.model.resources import Gpus, Resources

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
#: Conditions that can be told without Cedar.
TOLD = [
    'resource.recipe == Recipe::"vllm"',
    '[Recipe::"train", Recipe::"vllm"].contains(resource.recipe)',
    'resource.recipe != Recipe::"vllm"',
    'resource.recipe in [Recipe::"train", Recipe::"chat"]',
    'principal in Group::"staff"',
    'principal in [Group::"staff", Group::"guests"]',
    '!(principal in [Group::"guests"])',
    'principal == User::"ann"',
    'resource.owner == User::"ann"',
    'resource.project.name == "physics"',
    '"art" == resource.project.name',
    'resource.project == Project::"art"',
    'context.origin == "browser"',
    '!(["api", "cli"].contains(context.origin))',
    '(resource.cluster == Cluster::"hpc" || resource.cluster == Cluster::"old")',
    'resource.project.hasTag("tier")',
    '(resource.project.hasTag("tier") && resource.project.getTag("tier") == "paid")',
    '(resource.project.hasTag("tier") && resource.project.getTag("tier") != "paid")',
    '(resource.project.hasTag("tier") || resource.project.hasTag("x"))',
    "context has token",
    "!(context has token_project)",
]
#: Conditions for which Cedar is asked, some of which look like the others.
ASKED = [
    "(context has token_session && context.token_session == resource.id)",
    "principal == resource.owner",
    "principal in resource.project.managers",
    'principal in Team::"physics/member"',
    "principal.operator",
    "resource.gpus > 2",
    '(resource has gpu_type && resource["gpu_type"] == "a100")',
    'resource.image.path like "/site/*"',
    'resource.parameters.contains("model")',
    '(resource.answers.hasTag("model") && resource.answers.getTag("model") == "x")',
    '(resource.integers.hasTag("context") && resource.integers.getTag("context") > 10)',
    '[Partition::"gpu"].containsAll(resource.partitions)',
    '(principal.operator || resource.recipe == Recipe::"vllm")',
    '!(resource.recipe == Recipe::"vllm" && resource.nodes > 1)',
    "context.hour > 20",
]
#: What cannot be worked out for two GPUs and more.
BROKEN = "resource.gpus * 9223372036854775807 > 0"

callers = st.builds(
    Principal,
    name=st.sampled_from(["ann", "bob"]),
    operator=st.booleans(),
    origin=st.sampled_from(["api", "cli", "browser"]),
    groups=st.frozensets(st.sampled_from(["staff", "guests", "physics"])),
    projects=st.dictionaries(st.sampled_from(["physics", "art"]), st.sampled_from(list(Role))),
    token=st.sampled_from([None, "nightly"]),
    session=st.sampled_from([None, "s1", "s2"]),
    project=st.sampled_from([None, "art"]),
)
answers = st.dictionaries(st.sampled_from(["model", "context", "share"]), st.sampled_from(["x", 5, 11, 0.5]))
subjects = st.builds(
    lambda owner, project, labels, cluster, recipe, gpus, partition, given, nodes: Subject(
        id="s1",
        owner=owner,
        project=project,
        labels=labels,
        cluster=cluster,
        plan=Plan(
            recipe=recipe,
            version="1",
            digest="d",
            kind="service",
            image=PinnedImage(name="i", path="/site/i.sif", sha256="a" * 64),
            resources=Resources(gpus=gpus, partition=partition, nodes=nodes),
            parameters=given,
        ),
    ),
    st.sampled_from(["ann", "bob"]),
    st.sampled_from(["physics", "art"]),
    st.dictionaries(st.sampled_from(["tier", "x"]), st.sampled_from(["paid", "free"])),
    st.sampled_from(["hpc", "old", "new"]),
    st.sampled_from(["vllm", "train", "chat"]),
    st.builds(Gpus, count=st.integers(0, 4), type=st.sampled_from([None, "a100"])),
    st.sampled_from([None, "gpu", "gpu,cpu"]),
    answers,
    st.integers(1, 2),
)
whens = st.integers(0, 167).map(lambda hours: MONDAY + timedelta(hours=hours))
actions: st.SearchStrategy[Action] = st.sampled_from(["create", "call", "stop"])


def a_site(folder: Path, *, broken: bool) -> Policies:
    """Conditions by themselves, in pairs of any order, negated, in scopes; permits among them."""
    chance = random.Random(4)  # noqa: S311 - the same policies each time
    pairs = chance.sample(list(itertools.permutations([*TOLD, *ASKED, *([BROKEN] * broken)], 2)), 90)
    wholes = [*TOLD, *(" && ".join(pair) for pair in pairs), *(f"{BROKEN} && {one}" for one in TOLD[:5] * broken)]
    made = [f"when {{ {whole} }}" for whole in wholes]
    made += [f"unless {{ {whole} }}" for whole in TOLD[:4]]
    made += [f"when {{ {one} }} unless {{ {other} }}" for one, other in pairs[:5]]
    scopes = ["principal", 'principal in Group::"staff"', 'principal == User::"bob"', "principal is User"]
    lines = [
        f'@id("p{number}") @allows("x") {chance.choice(["permit", "forbid", "forbid"])} '
        f'({scopes[number % 9 if number % 9 < len(scopes) else 0]}, action == Action::"{action}", resource) {one};'
        for number, (one, action) in enumerate(itertools.product(made, ["create", "call"]))
    ]
    (folder / "site.cedar").write_text("\n".join(lines))
    return Policies([folder])


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "with some that cannot be worked out"])
def chosen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policies:
    return a_site(tmp_path_factory.mktemp("policies"), broken=request.param)


@pytest.fixture(scope="module")
def cedar(chosen: Policies) -> cedarpy.PolicySet:
    """All policies, none put aside."""
    return cedarpy.PolicySet.from_str("\n".join(rule.text for rule in chosen.current.rules.values()))


ALL_WORDS = frozenset(re.findall(r"\w+", schema_text()))


@settings(max_examples=60, deadline=None)
@given(caller=callers, subject=subjects, action=actions, when=whens)
def test_the_decision_is_that_of_all_policies_and_all_attributes(
    chosen: Policies, cedar: cedarpy.PolicySet, caller: Principal, subject: Subject, action: Action, when: datetime
) -> None:
    asked = policy_question.request(caller, action, subject, when, hour=None, weekday=None)
    lasting = cedarpy.Entities.from_json_str(policy_question.lasting(caller, subject))
    entities = lasting.with_added_json_str(policy_question.passing(subject, ALL_WORDS))
    said = cedarpy.is_authorized(asked, cedar, entities)
    rules = list(chosen.current.rules.values())
    errors = {name for error in said.diagnostics.errors for name in re.findall(r"`(policy\d+)`", error)[:1]}
    deciding = {rules[int(name.removeprefix("policy"))].id for name in errors or said.diagnostics.reasons}
    found = chosen.decide(caller, action, subject, when)
    assert found.allowed == (said.allowed and not errors)
    if errors or deciding:
        assert found.by == ("fault" if errors else "permit" if said.allowed else "forbid")
        assert {reason.policy for reason in found.reasons} == deciding
    else:
        assert found.by == "none"


@pytest.mark.parametrize("condition", TOLD)
def test_what_can_be_told_is_told(chosen: Policies, condition: str) -> None:
    """Otherwise the test above would show nothing of it."""
    assert any(rule.guards for rule in _of(chosen, condition))


def test_policies_about_others_are_put_aside(tmp_path: Path) -> None:
    """Fifty policies for fifty recipes: Cedar gets the one that is asked for."""
    forbid = 'forbid (principal, action == Action::"create", resource)'
    (tmp_path / "site.cedar").write_text(
        "\n".join(
            f'@id("p{number}") @allows("x") {forbid} when {{ resource.recipe == Recipe::"r{number}" }};'
            for number in range(50)
        )
    )
    chosen, caller = Policies([tmp_path]), Principal(name="ann", projects={"physics": Role.MEMBER})
    part = chosen.current.part("create", "session")
    subject = _asking("r7")
    ours = part.chosen(facts_of(caller, subject))
    assert len(ours.cedar) < len(part.whole.cedar) - 48
    assert part.chosen(facts_of(caller, subject)) is ours
    assert [reason.policy for reason in chosen.decide(caller, "create", subject, MONDAY).reasons] == ["p7"]
    assert chosen.decide(caller, "create", _asking("r50"), MONDAY).allowed


def _asking(recipe: str) -> Subject:
    image: Any = PinnedImage(name="i", path="/i.sif", sha256="a" * 64)
    plan = Plan(recipe=recipe, version="1", digest="d", kind="service", image=image, resources=Resources())
    return Subject(owner="ann", project="physics", cluster="hpc", plan=plan)


def _of(chosen: Policies, condition: str) -> list[Rule]:
    return [rule for rule in chosen.current.rules.values() if f"when {{ {condition} }}" in rule.text]
