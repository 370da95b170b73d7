"""Policies: who may do what by roles and attributes, what a denial says, what broken files say, and reloading."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import policies
from gateway.core.policies import Policies, require
from gateway.errors import PolicyDenied, PolicyInvalid
from gateway.model.plan import PinnedImage, Plan, PlannedMount
from gateway.model.policy import SESSION_ACTIONS as ACTIONS
from gateway.model.policy import Action, Subject
from gateway.model.principal import EVERYTHING, Origin, Principal, Role, Scope
from gateway.model.resources import Gpus, Resources

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
ANN = Principal(name="ann", projects={"physics": Role.MEMBER}, groups=frozenset({"staff"}))
SHIPPED = Policies()


def a_subject(**changes: Any) -> Subject:
    """A session that ann asks for."""
    resources = Resources(time=60, cpus=2, memory=1024).model_copy(update=changes.pop("resources", {}))
    plan = Plan(
        recipe="vllm",
        version="1",
        digest="d",
        kind="service",
        image=PinnedImage(name="vllm-0.9", path="/site/images/vllm.sif", sha256="a" * 64),
        resources=resources,
        **changes.pop("plan", {}),
    )
    return Subject(**{"owner": "ann", "project": "physics", "cluster": "hpc", "plan": plan, **changes})


def decide(chosen: Policies, caller: Principal, action: Action, subject: Subject, when: datetime = NOON) -> bool:
    return chosen.decide(caller, action, subject, when).allowed


def site(folder: Path, cedar: str = "", limits: str = "") -> Policies:
    (folder / "site.cedar").write_text(cedar)
    (folder / "limits.toml").write_text(limits)
    return Policies([folder])


PEOPLE = {
    "owner": ANN,
    "viewer": Principal(name="vic", projects={"physics": Role.VIEWER}),
    "member": Principal(name="mel", projects={"physics": Role.MEMBER}),
    "manager": Principal(name="max", projects={"physics": Role.MANAGER}),
    "stranger": Principal(name="sue", projects={"art": Role.MANAGER}),
    "operator": Principal(name="opa", operator=True),
    "admin": Principal(name="ada", admin=True),
}
MAY: dict[str, set[Action]] = {
    "owner": set(ACTIONS),
    "viewer": {"read", "logs", "script"},
    "member": {"create", "read", "logs", "script", "call"},
    "manager": {"create", "read", "logs", "script", "call", "stop", "delete", "scale", "extend"},
    "stranger": set(),
    "operator": {"read", "logs", "script", "stop", "delete", "scale", "extend"},
    "admin": {"create", "read", "logs", "script", "call", "stop", "delete", "scale", "extend"},
}


@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.parametrize("action", ACTIONS)
def test_what_roles_allow(who: str, action: Action) -> None:
    assert decide(SHIPPED, PEOPLE[who], action, a_subject(id="S1")) is (action in MAY[who])


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"scopes": frozenset({Scope.READ})}, {"read", "logs", "script"}),
        (
            {"scopes": frozenset({Scope.WRITE})},
            {"create", "stop", "delete", "open", "enter", "scale", "extend", "update", "resume"},
        ),
        ({"scopes": frozenset({Scope.INFERENCE})}, {"call"}),
        ({"session": "S1"}, set(ACTIONS)),
        ({"session": "S2"}, set()),
        ({"project": "physics"}, set(ACTIONS)),
        ({"project": "art"}, set()),
    ],
)
def test_what_tokens_take_away(changes: dict[str, Any], allowed: set[str]) -> None:
    caller = ANN.model_copy(update={"token": "T", **changes})
    assert {action for action in ACTIONS if decide(SHIPPED, caller, action, a_subject(id="S1"))} == allowed


callers = st.builds(
    Principal,
    name=st.sampled_from(["ann", "bob"]),
    admin=st.booleans(),
    operator=st.booleans(),
    projects=st.dictionaries(st.sampled_from(["physics", "art"]), st.sampled_from(list(Role))),
    session=st.none() | st.sampled_from(["S1", "S2"]),
    project=st.none() | st.sampled_from(["physics", "art"]),
    scopes=st.just(EVERYTHING),
)


@given(caller=callers, owner=st.sampled_from(["ann", "bob"]), project=st.sampled_from(["physics", "art"]))
def test_cedar_says_what_the_principal_says(caller: Principal, owner: str, project: str) -> None:
    """`sees` is what `visible_to` asks of the database: tests/store/test_people.py holds those two together."""
    subject = a_subject(id="S1", owner=owner, project=project)
    said = {
        "read": caller.sees(subject),
        "logs": caller.sees(subject),
        "script": caller.sees(subject),
        "stop": caller.changes(subject),
        "delete": caller.changes(subject),
        "scale": caller.changes(subject),
        "extend": caller.changes(subject),
        "update": caller.enters(subject),
        "resume": caller.enters(subject),
        "call": caller.calls(subject),
        "open": caller.enters(subject),
        "enter": caller.enters(subject),
    }
    assert {action: decide(SHIPPED, caller, action, subject) for action in ACTIONS if action != "create"} == said
    asked = a_subject(owner=caller.name, project=project)
    may_create = caller.has_role(project, Role.MEMBER) and caller.session is None
    assert decide(SHIPPED, caller, "create", asked) is may_create


SITE = """
@id("trusted-images")
@allows("images below /site/images")
forbid (principal, action == Action::"create", resource)
unless { resource.image.path like "/site/images/*" };

@id("nights-for-big-jobs")
@allows("more than two nodes from 20 to 6 o'clock and at weekends")
forbid (principal, action == Action::"create", resource)
when { resource.nodes > 2 && context.hour >= 6 && context.hour < 20 && context.weekday < 6 };

@id("kubernetes-stays-in-its-queue")
@allows("the partition k8s")
forbid (principal, action == Action::"create", resource)
when { context.origin == "kubernetes" && !(resource.partitions == [Partition::"k8s"]) };

@id("home-only")
@allows("paths of your home directory")
forbid (principal, action == Action::"create", resource)
when { resource.volume_classes.contains("path") && !(principal in Group::"staff") };

@id("known-bad")
@allows("any other image")
forbid (principal, action == Action::"create", resource)
when { resource.image.sha256 == "%s" };

@id("free-tier")
@allows("no GPUs in projects of the free tier")
forbid (principal, action == Action::"create", resource)
when { resource.project.hasTag("tier") && resource.project.getTag("tier") == "free" && resource.gpus > 0 };
""" % ("b" * 64)
OTHER = PinnedImage(name="x", path="/home/x.sif", sha256="a" * 64)
MOUNT = (PlannedMount(source="/scratch/x", target="/x"),)
ORIGINS = get_args(Origin)


@pytest.mark.parametrize(
    ("caller", "subject", "when", "policy"),
    [
        (ANN, a_subject(), NOON, "roles-create"),
        (ANN, a_subject(resources={"nodes": 3}), NOON, "nights-for-big-jobs"),
        (ANN, a_subject(resources={"nodes": 3}), NOON.replace(hour=22), "roles-create"),
        (ANN, a_subject(resources={"nodes": 3}), NOON.replace(day=7), "roles-create"),
        (ANN.model_copy(update={"origin": "kubernetes"}), a_subject(), NOON, "kubernetes-stays-in-its-queue"),
        (
            ANN.model_copy(update={"origin": "kubernetes"}),
            a_subject(resources={"partition": "k8s"}),
            NOON,
            "roles-create",
        ),
        (ANN, a_subject(plan={"mounts": MOUNT}), NOON, "roles-create"),
        (ANN.model_copy(update={"groups": frozenset()}), a_subject(plan={"mounts": MOUNT}), NOON, "home-only"),
        (ANN, a_subject(labels={"tier": "free"}, resources={"gpus": Gpus(count=1)}), NOON, "free-tier"),
        (ANN, a_subject(labels={"tier": "paid"}, resources={"gpus": Gpus(count=1)}), NOON, "roles-create"),
        (ANN, a_subject(labels={"tier": "free"}), NOON, "roles-create"),
    ],
)
def test_what_a_site_forbids(tmp_path: Path, caller: Principal, subject: Subject, when: datetime, policy: str) -> None:
    decision = site(tmp_path, SITE).decide(caller, "create", subject, when)
    assert decision.policy == policy
    assert decision.allowed is policy.startswith("roles-")


def of_a_plan(**values: Any) -> Subject:
    return a_subject(plan=values)


def of_an_image(**values: Any) -> Subject:
    subject = a_subject()
    image = subject.plan.image.model_copy(update=values)
    return subject.model_copy(update={"plan": subject.plan.model_copy(update={"image": image})})


def called(**values: Any) -> Principal:
    return ANN.model_copy(update=values)


SCRATCH = (PlannedMount(source="/scratch/x", target="/x", volume="x", volume_class="scratch"),)
PLAIN = a_subject()
#: What a site can speak of: the condition, and what it means and does not mean, each a caller, a session, a moment.
ATTRIBUTES: dict[str, tuple[str, list[tuple[Principal, Subject, datetime]], list[tuple[Principal, Subject, datetime]]]]
ATTRIBUTES = {
    "recipe": (
        'resource.recipe == Recipe::"vllm"',
        [(ANN, PLAIN, NOON)],
        [(ANN, PLAIN.model_copy(update={"plan": PLAIN.plan.model_copy(update={"recipe": "train"})}), NOON)],
    ),
    "image-prefix": (
        'resource.image.path like "/home/*"',
        [(ANN, of_an_image(path="/home/ann/x.sif"), NOON)],
        [(ANN, of_an_image(path="/site/home/x.sif"), NOON)],
    ),
    "image-digest": (
        f'resource.image.sha256 == "{"b" * 64}"',
        [(ANN, of_an_image(sha256="b" * 64), NOON)],
        [(ANN, PLAIN, NOON)],
    ),
    "partition": (
        'resource.partitions.contains(Partition::"gpu")',
        [(ANN, a_subject(resources={"partition": name}), NOON) for name in ("gpu", "cpu,gpu")],
        [(ANN, a_subject(resources={"partition": name}), NOON) for name in (None, "cpu", "gpu-small")],
    ),
    "gpu-type": (
        'resource has gpu_type && resource.gpu_type == "a100"',
        [(ANN, a_subject(resources={"gpus": Gpus(count=1, type="a100")}), NOON)],
        [(ANN, a_subject(resources={"gpus": gpus}), NOON) for gpus in (Gpus(), Gpus(count=1), Gpus(count=1, type="v"))],
    ),
    "gpu-count": (
        "resource.gpus > 4",
        [(ANN, a_subject(resources={"gpus": Gpus(count=3), "nodes": 2}), NOON)],
        [(ANN, a_subject(resources={"gpus": Gpus(count=2), "nodes": 2}), NOON), (ANN, PLAIN, NOON)],
    ),
    "time": (
        "if resource has time then resource.time > 60 else true",
        [(ANN, a_subject(resources={"time": time}), NOON) for time in (61, None)],
        [(ANN, PLAIN, NOON)],
    ),
    "nodes": ("resource.nodes > 1", [(ANN, a_subject(resources={"nodes": 2}), NOON)], [(ANN, PLAIN, NOON)]),
    "volume-class": (
        'resource.volume_classes.contains("scratch")',
        [(ANN, of_a_plan(mounts=SCRATCH), NOON)],
        [(ANN, of_a_plan(mounts=MOUNT), NOON), (ANN, PLAIN, NOON)],
    ),
    "hour": (
        "context.hour >= 6 && context.hour < 20",
        [(ANN, PLAIN, NOON.replace(hour=hour)) for hour in (6, 12, 19)],
        [(ANN, PLAIN, NOON.replace(hour=hour)) for hour in (5, 20, 23)],
    ),
    "weekday": ("context.weekday > 5", [(ANN, PLAIN, NOON.replace(day=7))], [(ANN, PLAIN, NOON)]),
    "project-label": (
        'resource.project.hasTag("tier") && resource.project.getTag("tier") == "free"',
        [(ANN, a_subject(labels={"tier": "free"}), NOON)],
        [(ANN, a_subject(labels=labels), NOON) for labels in ({}, {"tier": "paid"}, {"kind": "free"})],
    ),
    "user-group": (
        'principal in Group::"staff"',
        [(ANN, PLAIN, NOON)],
        [(called(groups=frozenset(groups)), PLAIN, NOON) for groups in ((), ("staff-of-others",))],
    ),
    **{
        f"origin-{origin}": (
            f'context.origin == "{origin}"',
            [(called(origin=origin), PLAIN, NOON)],
            [(called(origin=other), PLAIN, NOON) for other in ORIGINS if other != origin],
        )
        for origin in ORIGINS
    },
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_can_be_spoken_of(tmp_path: Path, name: str) -> None:
    condition, meant, others = ATTRIBUTES[name]
    head = f'@id("{name}")\n@allows("something else")\nforbid (principal, action == Action::"create", resource)\n'
    chosen = site(tmp_path, f"{head}when {{ {condition} }};\n")
    assert [chosen.decide(who, "create", subject, when).policy for who, subject, when in meant] == [name] * len(meant)
    assert all(decide(chosen, who, "create", subject, when) for who, subject, when in others)


def test_images_by_path_and_digest(tmp_path: Path) -> None:
    chosen, subject = site(tmp_path, SITE), a_subject()
    for image, policy in (
        (OTHER, "trusted-images"),
        (subject.plan.image.model_copy(update={"sha256": "b" * 64}), "known-bad"),
    ):
        there = subject.model_copy(update={"plan": subject.plan.model_copy(update={"image": image})})
        assert chosen.decide(ANN, "create", there, NOON).policy == policy


def test_a_denial_names_the_policies_and_says_what_is_allowed(tmp_path: Path) -> None:
    chosen = site(tmp_path, SITE, '[limit.small]\nwhy = "It is a course."\nmaximum = {gpus = 2, time = "2h"}\n')
    wanted = a_subject(resources={"gpus": Gpus(count=4, type="a100"), "time": 600, "nodes": 3})
    with pytest.raises(PolicyDenied) as caught:
        require(chosen.decide(ANN, "create", wanted, NOON))
    said = caught.value
    assert said.code == "policy_denied"
    assert said.message == (
        "you may not start this session: forbidden by the policy nights-for-big-jobs, small.gpus, small.time"
    )
    assert "at most 2 GPUs. It is a course (you ask for 12 GPUs)" in said.hint
    assert "at most 2 h. It is a course (you ask for 10 h)" in said.hint
    assert said.details["policy"] == "nights-for-big-jobs"
    assert [one["where"] for one in said.details["policies"]] == ["site.cedar:7", "limits.toml:1", "limits.toml:1"]


def test_where_nothing_permits_it_the_permits_are_named() -> None:
    with pytest.raises(PolicyDenied, match="what would permit it is the policy roles-open") as caught:
        require(SHIPPED.decide(PEOPLE["manager"], "open", a_subject(id="S1"), NOON))
    assert caught.value.hint.startswith("Allowed: its owner opens the pages")


def test_a_policy_that_cannot_be_worked_out_forbids(tmp_path: Path) -> None:
    text = '@id("sum")\n@allows("x")\nforbid (principal, action, resource is Session)\n'
    chosen = site(tmp_path, f"{text}when {{ resource.nodes * 9223372036854775807 * 2 > 1 }};")
    decision = chosen.decide(ANN, "create", a_subject(), NOON)
    assert (decision.allowed, decision.by, decision.policy) == (False, "fault", "sum")


def test_a_site_replaces_a_shipped_policy_by_its_name(tmp_path: Path) -> None:
    narrower = (
        '@id("roles-change")\n@allows("its owner alone")\npermit (principal, action == Action::"stop", resource)\n'
    )
    chosen = site(tmp_path, f"{narrower}when {{ principal == resource.owner }};")
    assert decide(chosen, ANN, "stop", a_subject(id="S1"))
    assert not decide(chosen, PEOPLE["manager"], "stop", a_subject(id="S1"))


HEAD = '@id("a")\n@allows("b")\n'
FORBID = 'forbid (principal, action == Action::"create", resource)\n'


@pytest.mark.parametrize(
    ("name", "text", "line", "column", "message"),
    [
        ("a.cedar", f"{HEAD}{FORBID}when {{ 1 + }};", 4, 12, "unexpected token"),
        ("a.cedar", f"// a comment; with a semicolon\n{HEAD}permit (principal);", 4, 19, "missing the `action`"),
        ("a.cedar", f"{HEAD}{FORBID}when {{ resource.nods > 3 }};", 4, 17, "attribute `nods`"),
        ("a.cedar", f'{HEAD}forbid (principal, action == Action::"cerate", resource);', 3, 38, "cerate"),
        ("a.cedar", f"{HEAD}{FORBID}when {{ resource.nodes > true }};", 1, 1, "expected Long"),
        ("a.cedar", f"{HEAD}{FORBID}when {{ resource.time > 3 }};", 4, None, "time"),
        ("a.cedar", f"{FORBID.rstrip()};\n{HEAD}{FORBID.rstrip()};", 1, 1, "no name"),
        ("a.cedar", f'@id("a")\n{FORBID.rstrip()};', 1, 1, "does not say what it allows"),
        ("a.cedar", f"{HEAD}permit (principal == ?principal, action, resource);", 1, 1, "templates"),
        ("a.cedar", f'{HEAD}forbid (principal, action == Action::"read", resource);', 1, 1, "about `read`"),
        ("a.cedar", f'{HEAD}forbid (principal, action in [Action::"read"], resource);', 1, 1, "about `read`"),
        ("a.cedar", f"{HEAD}{FORBID.rstrip()};\n{HEAD}{FORBID.rstrip()};", 4, 1, "already"),
        ("a.cedar", f"{HEAD}{FORBID}when {{ resource.nodes > 3 }}", 4, None, "end of input"),
        ("a.toml", "[limit.x]\nmaximum = {gpus = }\n", 2, None, ""),
        ("a.toml", "[limit.x]\nmaximum = {gpu = 3}\n", 2, 12, "gpu"),
        ("a.toml", '[limit.y]\nmaximum.gpus = 1\n[limit.x]\nmaximum = {time = "soon"}\n', 4, 12, "time"),
        ("a.toml", '[limit.x]\nwhy = "because"\n', 1, 1, "limits nothing"),
        ("a.toml", "[limits.x]\nmaximum.gpus = 1\n", 1, None, "limits"),
    ],
)
def test_broken_files_are_told_by_line(
    tmp_path: Path, name: str, text: str, line: int, column: int | None, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PolicyInvalid) as caught:
        Policies([tmp_path])
    where = caught.value.details
    assert (where["file"], where["line"]) == (str(tmp_path / name), line), caught.value
    assert column is None or where["column"] == column, caught.value
    assert message in caught.value.message


def test_a_changed_file_is_read_again_and_a_broken_one_keeps_the_old_set(tmp_path: Path) -> None:
    passed = [0.0]
    (tmp_path / "a.toml").write_text("[limit.a]\nmaximum.gpus = 1\n")
    chosen = Policies([tmp_path], moment=lambda: passed[0])

    def after(text: str, name: str = "a.toml") -> bool:
        (tmp_path / name).write_text(text)
        passed[0] += policies.LOOK_EVERY
        return decide(chosen, ANN, "create", a_subject(resources={"gpus": Gpus(count=2)}))

    assert not decide(chosen, ANN, "create", a_subject(resources={"gpus": Gpus(count=2)}))
    assert after("[limit.a]\nmaximum.gpus = 22\n")
    assert not after("[limit.a]\nmaximum.gpus = 1\n")
    number = chosen.current.number
    assert not after("[limit.a]\nmaximum.gpus = two\n")
    assert [problem.details["line"] for problem in chosen.problems] == [2]
    assert not after(f"{HEAD}permit (", "b.cedar")
    assert len(chosen.problems) == 2
    assert chosen.current.number == number
    (tmp_path / "b.cedar").unlink()
    assert after("[limit.a]\nmaximum.gpus = 333\n")
    assert chosen.problems == ()


def test_a_missing_folder_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalid, match="no such folder"):
        Policies([tmp_path / "nowhere"])


@pytest.mark.parametrize(("how", "message"), [("gone", "no such folder"), ("loop", "cannot be read")])
def test_a_folder_that_cannot_be_read_any_more_keeps_the_old_set(tmp_path: Path, how: str, message: str) -> None:
    place, passed = tmp_path / "site", [0.0]
    place.mkdir()
    (place / "a.toml").write_text("[limit.a]\nmaximum.gpus = 1\n")
    chosen = Policies([place], moment=lambda: passed[0])
    number = chosen.current.number
    place.rename(tmp_path / "elsewhere")
    if how == "loop":
        place.symlink_to(place)
    passed[0] += policies.LOOK_EVERY
    assert not decide(chosen, ANN, "create", a_subject(resources={"gpus": Gpus(count=2)}))
    assert chosen.current.number == number
    assert [message in problem.message for problem in chosen.problems] == [True]
    with pytest.raises(PolicyInvalid, match=message):
        Policies([place])
    place.unlink(missing_ok=True)
    (tmp_path / "elsewhere").rename(place)
    passed[0] += policies.LOOK_EVERY
    assert not decide(chosen, ANN, "create", a_subject(resources={"gpus": Gpus(count=2)}))
    assert chosen.problems == ()
