"""What a decision of the policies costs: the shipped ones with a site's hundred policies and limits, one caller.

Beside it the raw thing in the same run: Cedar alone, asked the same with all policies, and entities that were parsed
before. Of a site's policies half are about recipes and half about groups, as sites write them; `all apply` has as many
that are about everybody, none of which can be put aside.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import cedarpy

from benchmarks.environment import Environment
from benchmarks.report import Row, percentile
from gateway.core import policy_question
from gateway.core.policies import Policies
from gateway.core.verdicts import Verdicts
from gateway.model.plan import PinnedImage, Plan
from gateway.model.policy import Subject
from gateway.model.principal import Principal, Role
from gateway.model.resources import Gpus, Resources

TIMES = 5000
POLICIES, LIMITS = 50, 25
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
FORBID = 'forbid (principal, action == Action::"create", resource)'


def measure(env: Environment) -> Iterator[Row]:
    """Needs no cluster."""
    del env
    yield from rows()


def rows() -> Iterator[Row]:
    """Wall time of each decision, and the processor's."""
    with tempfile.TemporaryDirectory(prefix="sluice-policy-") as folder:
        chosen, strict = _a_site(Path(folder) / "usual"), _a_strict_site(Path(folder) / "strict")
        caller, subject = _asked()
        assert all(one.decide(caller, "create", subject, NOW).allowed for one in (chosen, strict))
        request = policy_question.request(caller, "create", subject, NOW, hour=None, weekday=None)
        rules = chosen.current.rules.values()
        words = frozenset[str]().union(*(rule.words for rule in rules))
        kept = cedarpy.Entities.from_json_str(policy_question.lasting(caller, subject))
        entities = kept.with_added_json_str(policy_question.passing(subject, words))
        cedar, number = cedarpy.PolicySet.from_str("\n".join(rule.text for rule in rules)), len(rules)
        for clock, name in ((time.perf_counter, "wall"), (time.thread_time, "CPU")):
            ours = _taken(clock, lambda: chosen.decide(caller, "create", subject, NOW))
            most = _taken(clock, lambda: strict.decide(caller, "create", subject, NOW))
            raw = _taken(clock, lambda: cedarpy.is_authorized(request, cedar, entities))
            for share in (0.5, 0.99):
                what = f"policy decision, {number} policies, {name}, p{share * 100:g}"
                yield Row(what, "ms", percentile(ours, share) * 1e3, percentile(raw, share) * 1e3)
            for share in (0.5, 0.99):
                what = f"policy decision, {len(strict.current.rules)} policies, all apply, {name}, p{share * 100:g}"
                yield Row(what, "ms", percentile(most, share) * 1e3)
        verdicts = Verdicts(chosen, lambda: NOW, "UTC")
        for clock, name in ((time.perf_counter, "wall"), (time.thread_time, "CPU")):
            taken = _taken(clock, lambda: verdicts.of(caller, "call", subject))
            for share in (0.5, 0.99):
                what = f"policy decision of the data plane, from memory, {name}, p{share * 100:g}"
                yield Row(what, "ms", percentile(taken, share) * 1e3)


def _taken(clock: Callable[[], float], ask: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(TIMES):
        began = clock()
        ask()
        taken.append(clock() - began)
    return taken


def _a_site(folder: Path) -> Policies:
    cedar = (
        f'@id("site-{number}")\n@allows("x")\n{FORBID}\n'
        f'when {{ resource.recipe == Recipe::"r{number}" && resource.gpus > {number} && context.hour > 5 }};\n'
        for number in range(POLICIES)
    )
    limits = (
        f'[limit.l{number}]\ngroups = ["g{number}"]\nmaximum = {{gpus = 1, time = "1h"}}\n' for number in range(LIMITS)
    )
    folder.mkdir()
    (folder / "site.cedar").write_text("".join(cedar))
    (folder / "limits.toml").write_text("".join(limits))
    return Policies([folder])


def _a_strict_site(folder: Path) -> Policies:
    cedar = (
        f'@id("site-{number}")\n@allows("x")\n{FORBID}\n'
        f'when {{ resource.gpus > {number + 10} && principal in Group::"g{number}" }};\n'
        for number in range(POLICIES + 2 * LIMITS)
    )
    folder.mkdir()
    (folder / "site.cedar").write_text("".join(cedar))
    return Policies([folder])


def _asked() -> tuple[Principal, Subject]:
    projects = {f"p{number}": Role.MEMBER for number in range(5)}
    caller = Principal(name="ann", projects=projects, groups=frozenset({"staff", "physics"}))
    plan = Plan(
        recipe="vllm",
        version="1",
        digest="0",
        kind="service",
        image=PinnedImage(name="vllm", path="/images/vllm.sif", sha256="0" * 64),
        resources=Resources(time=60, cpus=4, memory=1024, partition="gpu", gpus=Gpus(count=4, type="a100")),
        parameters={"model": "/models/x", "context": 4096, "share": 0.9, "extra": ["a", "b"], "eager": True},
    )
    return caller, Subject(owner="ann", project="p1", labels={"tier": "paid"}, cluster="hpc", plan=plan)
