"""May they? The policies asked, for use cases that do something and for `sluice policy check`, which does nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection

from gateway.core import images, placement, secrets, volumes
from gateway.core.asking import now
from gateway.core.context import Cluster, Gateway
from gateway.core.placement import Placement
from gateway.core.policies import require
from gateway.errors import ClusterNotFound, Forbidden, Invalid, PolicyInvalid, ProjectNotFound
from gateway.model.api import SessionRequest
from gateway.model.fixed import FIXED
from gateway.model.health import WELL, Pulse, ill
from gateway.model.limit import Circumstances, locked, shown
from gateway.model.plan import Plan
from gateway.model.policy import (
    Action,
    Decision,
    FileCheck,
    PolicyPage,
    PolicyProblem,
    PolicyView,
    Schema,
    Subject,
    subject_of,
)
from gateway.model.principal import Principal
from gateway.model.recipe import Recipe, parameters_schema
from gateway.model.session import Session
from gateway.render.plan import make_plan
from gateway.render.secret import fill, named_sources, secret_values, wanted
from gateway.store import projects


@dataclass(frozen=True)
class Wanted:
    """A request worked out, with the caller's locks filled in, and what the policies say of it.

    The values of its secrets are in nothing that is shown or recorded as it is.
    """

    cluster: Cluster
    where: Placement
    recipe: Recipe
    plan: Plan
    secrets: Mapping[str, str] = field(repr=False)
    decision: Decision


def may(gateway: Gateway, caller: Principal, action: Action, session: Session, connection: Connection) -> Decision:
    """The decision on something to be done with a session that the caller knows of. PolicyDenied."""
    subject = subject_of(session, projects.labels(connection, session.project))
    return require(gateway.policies.decide(caller, action, subject, now(gateway)))


async def plan_for(
    gateway: Gateway,
    caller: Principal,
    request: SessionRequest,
    *,
    hour: int | None = None,
    weekday: int | None = None,
) -> Wanted:
    """A request worked out and decided on, as if it were that hour and day if they are given."""
    cluster = gateway.cluster(request.cluster)
    where = await placement.place(gateway, caller, request.project, cluster)
    recipe = gateway.catalogue.get(request.recipe, request.version)
    if recipe.image is None:
        raise Invalid(f"the recipe {recipe.name!r} names no image")
    here = _circumstances(caller, recipe, where, cluster.name)
    given = {name: value for name, value in request.parameters.items() if value is not None}
    # An answer that a lock does not allow is for the policy to refuse: it says who locked it, and to what.
    given = {**locked(gateway.policies.current.limits, recipe, here), **given}
    found = await secrets.resolve(gateway, caller, where.project, wanted(recipe, given))
    named = found.values
    answers = fill(recipe, given, named)
    plan = make_plan(
        recipe,
        answers,
        resources=request.resources,
        image=await images.resolve(gateway, cluster.name, recipe.image),
        defaults=where.defaults(cluster.settings),
    )
    where.check(plan.resources)
    plan = _lasting(plan, request)
    values = secret_values(recipe, answers, named)
    told = {"labels": {**plan.labels, **request.labels}, "secrets": named_sources(recipe, given, values)}
    mounts = volumes.asked(plan.mounts, request.volumes)
    mounted = await volumes.resolve(gateway, caller, cluster, where, mounts)
    plan = plan.model_copy(update={**told, "mounts": mounted.mounts})
    subject = Subject(owner=caller.name, project=where.project, labels=where.labels, cluster=cluster.name, plan=plan)
    decision = gateway.policies.decide(caller, "create", subject, now(gateway), hour=hour, weekday=weekday)
    decisions = decision, *found.decisions, *mounted.decisions
    decision = next((one for one in decisions if not one.allowed), decision)
    return Wanted(cluster, where, recipe, plan, values, decision)


def _lasting(plan: Plan, request: SessionRequest) -> Plan:
    """The plan with as many jobs, for as long, as was asked for."""
    changes: dict[str, object] = {}
    if plan.service is None and (request.replicas is not None or request.renew is not None):
        raise Invalid(f"the recipe {plan.recipe!r} is a batch job: it has no replicas, and is not renewed")
    if request.replicas is not None and plan.service is not None:
        asked = {"min": request.replicas.min, "max": request.replicas.most}
        changes["service"] = plan.service.model_copy(update={"replicas": plan.replicas.model_copy(update=asked)})
    if request.renew is not None:
        changes["lifecycle"] = plan.lifecycle.model_copy(update={"renew": request.renew})
    return plan.model_copy(update=changes)


async def answers_schema(
    gateway: Gateway, caller: Principal, recipe: Recipe, project: str | None, cluster: str | None
) -> Schema:
    """JSON Schema of a recipe's answers, as far as the policies leave them to the caller; resources in `$defs`."""
    schema, limits = parameters_schema(recipe), gateway.policies.current.limits
    if not limits:
        return schema
    chosen, labels, name = None, {}, ""
    try:
        name, _ = gateway.settings.cluster(cluster)
    except ClusterNotFound:
        if cluster is not None:
            raise
    try:
        view = await gateway.db.read(projects.get, caller, project or placement.choose(caller))
        chosen, labels = view.name, dict(view.labels)
    except (Invalid, Forbidden, ProjectNotFound):
        if project is not None:
            raise
    here = Circumstances(recipe.name, chosen, labels, caller.groups, caller.origin, name)
    return shown(schema, limits, recipe, here)


def page(gateway: Gateway) -> PolicyPage:
    """The policies in force, and what is wrong with what was changed since."""
    chosen = gateway.policies.current
    items = [
        PolicyView(
            id=rule.id,
            effect=rule.effect,
            allows=rule.allows,
            file=str(rule.path),
            line=rule.line,
            text=rule.text,
            limit=rule.limit or None,
        )
        for rule in chosen.rules.values()
    ]
    items += [
        PolicyView(id=rule.name, effect="fixed", allows=rule.allows, file="", line=0, text=rule.said_by)
        for rule in FIXED.values()
    ]
    problems = [as_view(problem) for problem in gateway.policies.problems]
    return PolicyPage(items=items, problems=problems, loaded_at=chosen.loaded_at.isoformat())


def validate(gateway: Gateway, given: FileCheck) -> list[PolicyProblem]:
    """What is wrong with a text of policies."""
    return [as_view(problem) for problem in gateway.policies.check(given.name, given.text).problems]


def as_view(problem: PolicyInvalid) -> PolicyProblem:
    """A problem as the API shows it."""
    where = problem.details
    return PolicyProblem(file=where["file"], line=where["line"], column=where["column"], message=where["why"])


def health(gateway: Gateway) -> Pulse:
    """Whether the files of policies are as they must be."""
    since = gateway.policies.current.loaded_at
    problems = gateway.policies.problems
    if not problems:
        return WELL
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return ill(f"{problems[0].message}{more}; those of {since:%Y-%m-%d %H:%M:%S} UTC stay in force")


def _circumstances(caller: Principal, recipe: Recipe, where: Placement, cluster: str) -> Circumstances:
    return Circumstances(recipe.name, where.project, where.labels, caller.groups, caller.origin, cluster)
