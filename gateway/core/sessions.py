"""Sessions: ask for one, read, list, stop, delete. Nothing here talks to Slurm; the reconcile loop does."""

import hashlib
import json
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from ulid import ULID

from gateway.core import admission, audit, secrets
from gateway.core.context import Gateway
from gateway.core.policies import require
from gateway.core.scripts import script_for, script_of
from gateway.core.staging import directory
from gateway.errors import Conflict
from gateway.model.api import ScriptView, SessionRequest
from gateway.model.fixed import forbidden
from gateway.model.job import Job, JobScript, job_name
from gateway.model.plan import Plan
from gateway.model.policy import Action, Decision
from gateway.model.principal import Principal
from gateway.model.recipe import Recipe
from gateway.model.session import Session
from gateway.store import members
from gateway.store import sessions as store


async def create(
    gateway: Gateway, caller: Principal, request: SessionRequest, *, idempotency_key: str | None = None
) -> tuple[Session, bool]:
    """Accept a session: durable when this returns. With a key, the same request gives the same session."""
    digest = _digest(request, gateway.catalogue.get(request.recipe, request.version))
    if idempotency_key is not None and (earlier := await _earlier(gateway, caller, idempotency_key, digest)):
        return earlier, False
    wanted = await admission.plan_for(gateway, caller, request)
    decision = require(wanted.decision)
    cluster, where, recipe, plan = wanted.cluster, wanted.where, wanted.recipe, wanted.plan
    session_id, now = str(ULID()), gateway.clock()
    session = Session(
        id=session_id,
        name=request.name or f"{recipe.name}-{session_id[-6:].lower()}",
        owner=caller.name,
        project=where.project,
        cluster=cluster.name,
        unix_user=where.unix_user,
        plan=plan,
        created_at=now,
        updated_at=now,
        job=Job(session_id=session_id, attempt=1, name=job_name(session_id, 1)),
    )
    sealed = secrets.seal_for(gateway, session_id, wanted.secrets) if wanted.secrets else None
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> None:
        store.add(connection, session, key=idempotency_key, digest=digest, sealed=sealed)
        audit.record_session(connection, told, "session.create", session, _asked(session), decision.policy)

    try:
        await gateway.db.write(write)
    except IntegrityError as error:
        if idempotency_key is not None and (earlier := await _earlier(gateway, caller, idempotency_key, digest)):
            return earlier, False
        raise Conflict(
            f"you already have a live session named {session.name!r}", hint="Choose another --name, or stop that one."
        ) from error
    gateway.work.ring()
    gateway.news.ring()
    return session, True


async def dry_run(gateway: Gateway, caller: Principal, request: SessionRequest) -> tuple[Plan, JobScript]:
    """What `create` would send to Slurm, under a session id that is never used."""
    wanted = await admission.plan_for(gateway, caller, request)
    require(wanted.decision)
    return wanted.plan, script_for(gateway, wanted.cluster, wanted.plan, str(ULID()), 1)


async def get(gateway: Gateway, caller: Principal, ref: str) -> Session:
    """By id or by name. SessionNotFound also for what the caller may not know of."""
    return await gateway.db.read(store.get, caller, ref)


async def stop(gateway: Gateway, caller: Principal, ref: str) -> Session:
    """Ask for the end of a session, in any phase, any number of times; the reconcile loop brings it about."""
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> Session:
        session, now = store.get(connection, caller, ref), gateway.clock()
        decision = admission.may(gateway, caller, "stop", session, connection)
        _may_change(caller, session)
        if session.phase.ended or session.stop_requested_at is not None:
            return session
        after = session.model_copy(update={"stop_requested_at": now})
        audit.record_session(connection, told, "session.stop", session, policy=decision.policy)
        for one in members.of(connection, session.id):
            store.save(connection, one, one.model_copy(update={"stop_requested_at": now}), now)
        return store.save(connection, session, after, now) or session

    session = await gateway.db.write(write)
    gateway.work.ring()
    gateway.news.ring()
    return session


async def delete(gateway: Gateway, caller: Principal, ref: str, *, files: bool = False) -> None:
    """Forget an ended session; with `files` its directory on the cluster goes, too. Conflict while it is live."""

    def look(connection: Connection) -> tuple[Session, Decision]:
        found = store.get(connection, caller, ref)
        decision = admission.may(gateway, caller, "delete", found, connection)
        _may_change(caller, found)
        return found, decision

    session, decision = await gateway.db.read(look)
    if not session.phase.ended:
        raise Conflict(f"session {session.name} has not ended", hint=f"Stop it first: sluice stop {session.name}.")
    if files:
        cluster = gateway.cluster(session.cluster)
        await cluster.files.remove(session.unix_user, directory(cluster, session))
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> None:
        store.remove(connection, session)
        audit.record_session(connection, told, "session.delete", session, {"files": files}, decision.policy)

    await gateway.db.write(write)


def _asked(session: Session) -> audit.Details:
    """What the audit log says of a new session; the answers to its parameters are nobody else's business."""
    plan = session.plan
    return {
        "recipe": plan.recipe,
        "recipe_version": plan.version,
        "image_sha256": plan.image.sha256,
        "cluster": session.cluster,
        "unix_user": session.unix_user,
        "resources": plan.resources.model_dump(mode="json", exclude_none=True),
    }


def _may_change(caller: Principal, session: Session) -> None:
    """What roles do not allow no policy of a site's gives."""
    if not caller.changes(session):
        raise forbidden(
            "fixed-change", f"session {session.name} is {session.owner}'s", f"Its project is {session.project}."
        )


async def looked_at(gateway: Gateway, caller: Principal, ref: str, action: Action) -> Session:
    """A session that the caller may know of and the policies let them do this with. SessionNotFound, PolicyDenied."""

    def look(connection: Connection) -> Session:
        found = store.get(connection, caller, ref)
        admission.may(gateway, caller, action, found, connection)
        return found

    return await gateway.db.read(look)


async def script(gateway: Gateway, caller: Principal, ref: str) -> JobScript:
    """The script of the session's current attempt, as it was or will be sent."""
    session = await looked_at(gateway, caller, ref, "script")
    return script_of(gateway, gateway.cluster(session.cluster), session)


def script_view(plan: Plan, script: JobScript) -> ScriptView:
    """A script as the API shows it."""
    options = script.options.model_dump(mode="json", exclude_none=True)
    return ScriptView(script=script.text, options=options, image=plan.image.path, sha256=plan.image.sha256)


async def _earlier(gateway: Gateway, caller: Principal, key: str, digest: str) -> Session | None:
    found = await gateway.db.read(store.by_key, caller, key)
    if found is None:
        return None
    session, earlier = found
    if earlier != digest:
        raise Conflict(
            "this Idempotency-Key was used for another request", hint="Use a fresh key for each new session."
        )
    return session


def _digest(request: SessionRequest, recipe: Recipe) -> str:
    """What tells requests with the same key apart. Values of secrets are not in it: a digest of one can be guessed."""
    values: Any = request.model_dump(mode="json")
    for name in ("replicas", "renew"):  # requests of before there were such
        if values[name] is None:
            del values[name]
    for name, parameter in recipe.parameters.items():
        if parameter.type == "secret" and isinstance(values["parameters"].get(name), str):
            values["parameters"][name] = None
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
