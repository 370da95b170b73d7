"""What may be asked of a session that runs, or has: more or fewer jobs, other parameters, more time, another run."""

from collections.abc import Callable, Mapping
from datetime import timedelta

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from ulid import ULID

from gateway.core import admission, audit, images, placement, secrets, volumes
from gateway.core.context import Gateway
from gateway.core.policies import require
from gateway.core.sessions import looked_at
from gateway.errors import Conflict, Invalid
from gateway.model import group
from gateway.model.api import JobView, ReplicaView, ScaleRequest, SessionRequest, UpdateRequest
from gateway.model.fixed import forbidden
from gateway.model.group import Start
from gateway.model.job import JobRole
from gateway.model.plan import Plan, PlannedMount, PlannedReplicas
from gateway.model.policy import SessionAction
from gateway.model.principal import Principal
from gateway.model.session import Session
from gateway.model.volume import VolumeUse
from gateway.render.secret import NAMED
from gateway.store import members
from gateway.store import secrets as kept_secrets
from gateway.store import sessions as store


async def scale(gateway: Gateway, caller: Principal, ref: str, request: ScaleRequest) -> Session:
    """Another number of jobs, from now on; the reconcile loop brings it about."""

    def change(connection: Connection, session: Session) -> Session:
        now = gateway.clock()
        asked = {"min": request.min, "max": request.most}
        after = session.model_copy(update={"plan": _scaled(session, asked)})
        if session.asleep_at is not None and request.min > 0:
            after = after.model_copy(update={"asleep_at": None, "reason": "", "message": ""})
        saved = _saved(store.save(connection, session, after, now), session)
        store.append_events(connection, [(saved, "session.scaled", asked)])
        return saved

    return await _changed(gateway, caller, ref, "session.scale", change, {"min": request.min, "max": request.most})


async def extend(gateway: Gateway, caller: Principal, ref: str, span: timedelta) -> Session:
    """Not to be stopped for being idle for so long from now; what was promised before is kept."""

    def change(connection: Connection, session: Session) -> Session:
        now = gateway.clock()
        until = max(now + span, session.keep_until or now)
        saved = _saved(store.save(connection, session, session.model_copy(update={"keep_until": until}), now), session)
        store.append_events(connection, [(saved, "session.extended", {"until": until.isoformat()})])
        return saved

    return await _changed(gateway, caller, ref, "session.extend", change, {"seconds": int(span.total_seconds())})


async def update(gateway: Gateway, caller: Principal, ref: str, request: UpdateRequest) -> Session:
    """Other answers, resources or another image: a job with them becomes ready and takes the place of the one before.

    What is not said stays as it is. The image is the newest of its name.
    """
    session = await looked_at(gateway, caller, ref, "update")
    _service(session)
    _owned(caller, session)
    plan, sealed = await _planned(gateway, caller, session, request)
    row_id = str(ULID())

    def change(connection: Connection, current: Session) -> Session:
        now = gateway.clock()
        if current.version != session.version and current.plan != session.plan:
            raise Conflict(f"session {session.name} was changed in between", hint="Look at it, and try again.")
        if sealed is not None:
            kept_secrets.take_back(connection, current.id)
            kept_secrets.give(connection, current.id, sealed)
        wanted = group.settled(plan, current.plan)
        if group.same_job(wanted, current.plan) or (current.job.intent_at is None and current.job.job_id is None):
            return _saved(store.save(connection, current, current.model_copy(update={"plan": wanted}), now), current)
        attempt = members.next_attempt(connection, current.id)
        store.add(connection, group.further(current, row_id, attempt, Start(wanted, JobRole.SUCCESSOR), now))
        return current

    return await _changed(gateway, caller, ref, "session.update", change, {"image_sha256": plan.image.sha256}, own=True)


async def resume(gateway: Gateway, caller: Principal, ref: str) -> Session:
    """An ended session begins again: the same plan, the same directory. Conflict while it is live."""
    session = await looked_at(gateway, caller, ref, "resume")
    _owned(caller, session)
    if not session.phase.ended:
        raise Conflict(f"session {session.name} has not ended")
    sealed = await _sealed_again(gateway, caller, session)
    mounts = await _mounts_again(gateway, caller, session)
    row_id = str(ULID())

    def change(connection: Connection, current: Session) -> Session:
        now = gateway.clock()
        if current.version != session.version:
            raise Conflict(f"session {session.name} was changed in between")
        begun, kept = group.part(current, row_id, members.next_attempt(connection, current.id), now)
        begun = begun.model_copy(update={"plan": begun.plan.model_copy(update={"mounts": mounts})})
        pair = members.part(connection, current, begun, kept, now)
        if sealed is not None:
            kept_secrets.give(connection, current.id, sealed)
        saved = _saved(pair[0] if pair is not None else None, current)
        store.append_events(connection, [(saved, "session.resumed", {"attempt": saved.job.attempt})])
        return saved

    try:
        return await _changed(gateway, caller, ref, "session.resume", change, {}, live=False, own=True)
    except IntegrityError as error:
        raise Conflict(f"you have a live session named {session.name!r}", hint="Stop that one first.") from error


async def jobs(gateway: Gateway, caller: Principal, ref: str) -> list[ReplicaView]:
    """All jobs that a session has and had, by attempt."""

    def load(connection: Connection) -> list[Session]:
        return members.every(connection, store.get(connection, caller, ref).id)

    return [
        ReplicaView(
            **JobView.model_validate(one.job, from_attributes=True).model_dump(),
            role=one.job.role.value,
            phase=one.word,
            message=one.message,
            draining=one.drain_at is not None,
            image_sha256=one.plan.image.sha256,
            ready_at=one.ready_at,
        )
        for one in await gateway.db.read(load)
    ]


_VERBS: Mapping[str, SessionAction] = {
    "session.scale": "scale",
    "session.extend": "extend",
    "session.update": "update",
    "session.resume": "resume",
}


async def _changed(
    gateway: Gateway,
    caller: Principal,
    ref: str,
    action: str,
    change: Callable[[Connection, Session], Session],
    details: audit.Details,
    *,
    live: bool = True,
    own: bool = False,
) -> Session:
    """Write a change of a session, as far as the caller may, and tell the audit log. `own`: by its owner alone."""
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> Session:
        session = store.get(connection, caller, ref)
        decision = admission.may(gateway, caller, _VERBS[action], session, connection)
        if own:
            _owned(caller, session)
        elif not caller.changes(session):  # whatever a site's policies permit
            raise forbidden("fixed-change", f"session {session.name} is {session.owner}'s")
        admission.may(gateway, caller, "create", session, connection)  # with the limits of today
        if live:
            _service(session)
            if session.phase.ended or session.stop_requested_at is not None:
                raise Conflict(f"session {session.name} has ended", hint=f"sluice resume {session.name}")
        audit.record_session(connection, told, action, session, details, decision.policy)
        return change(connection, session)

    session = await gateway.db.write(write)
    gateway.work.ring()
    gateway.news.ring()
    return session


async def _planned(
    gateway: Gateway, caller: Principal, session: Session, request: UpdateRequest
) -> tuple[Plan, str | None]:
    """The plan with the changes, decided on; and the secrets to go with it, sealed."""
    before = session.plan
    wanted = await admission.plan_for(
        gateway,
        caller,
        SessionRequest(
            recipe=before.recipe,
            version=request.version,
            project=session.project,
            cluster=session.cluster,
            parameters={**before.parameters, **request.parameters},
            resources={**before.resources.model_dump(mode="json", exclude_none=True), **request.resources},
            labels=before.labels,
            volumes=_own_volumes(gateway, before, request.version),
            renew=before.lifecycle.renew,
        ),
    )
    require(wanted.decision)
    plan = wanted.plan
    if request.image is not None:
        image = await images.resolve(gateway, session.cluster, request.image)
        plan = plan.model_copy(update={"image": image})
    return plan, secrets.seal_for(gateway, session.id, wanted.secrets) if wanted.secrets else None


async def _sealed_again(gateway: Gateway, caller: Principal, session: Session) -> str | None:
    """The secrets of an ended session, looked up anew: what it was given went with its end."""
    sources = session.plan.secrets
    if not sources:
        return None
    given = [variable for variable, source in sources.items() if not source.startswith(NAMED)]
    if given:
        raise Conflict(
            f"the value of {given[0]} was given for one run, and is not kept", hint="Launch another session instead."
        )
    names = {variable: source.removeprefix(NAMED) for variable, source in sources.items()}
    found = await secrets.resolve(gateway, caller, session.project, dict.fromkeys(names.values(), True))
    for decision in found.decisions:
        require(decision)
    return secrets.seal_for(gateway, session.id, {variable: found.values[name] for variable, name in names.items()})


async def _mounts_again(gateway: Gateway, caller: Principal, session: Session) -> tuple[PlannedMount, ...]:
    """Its mounts, as far as the caller may use their volumes now. VolumeNotFound, PolicyDenied."""
    cluster = gateway.cluster(session.cluster)
    where = await placement.place(gateway, caller, session.project, cluster)
    found = await volumes.resolve(gateway, caller, cluster, where, session.plan.mounts)
    for decision in found.decisions:
        require(decision)
    return found.mounts


def _own_volumes(gateway: Gateway, plan: Plan, version: str | None) -> tuple[VolumeUse, ...]:
    """The volumes that were asked for beside those of the recipe."""
    theirs = {mount.target for mount in gateway.catalogue.get(plan.recipe, version).mounts}
    return tuple(
        VolumeUse(name=mount.volume, target=mount.target, writable=mount.writable)
        for mount in plan.mounts
        if mount.volume is not None and mount.target not in theirs
    )


def _scaled(session: Session, asked: dict[str, int]) -> Plan:
    service = session.plan.service
    if service is None:
        raise Invalid(f"session {session.name} is a batch job: it has no replicas")
    replicas = (service.replicas or PlannedReplicas()).model_copy(update=asked)
    return session.plan.model_copy(update={"service": service.model_copy(update={"replicas": replicas})})


def _owned(caller: Principal, session: Session) -> None:
    """What it runs, it runs as its owner: nobody else says what that is."""
    if not caller.enters(session):
        raise forbidden(
            "fixed-again", f"session {session.name} is {session.owner}'s: its owner alone updates and resumes it"
        )


def _service(session: Session) -> None:
    if session.plan.service is None:
        raise Invalid(f"session {session.name} is a batch job: this is for services")


def _saved(saved: Session | None, session: Session) -> Session:
    if saved is None:
        raise Conflict(f"session {session.name} was changed in between", hint="Try again.")
    return saved
