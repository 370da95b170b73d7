"""Would it be allowed? A question to the policies, about anything that they decide; nothing is done.

What there is, is looked up as who asks may know of it; what there is not is taken as it would be asked for.
"""

from contextlib import suppress
from datetime import timedelta

from sqlalchemy import Connection

from gateway.core import admission, keeping, ruling, volumes
from gateway.core.asking import now
from gateway.core.context import Gateway
from gateway.errors import Invalid, NotFound, ProjectNotFound, UserNotFound
from gateway.model.fixed import forbidden
from gateway.model.policy import (
    KEPT_ACTIONS,
    PERSON_ACTIONS,
    PROJECT_ACTIONS,
    SESSION_ACTIONS,
    CheckRequest,
    Decision,
    Kept,
    Ruled,
    Thing,
    subject_of,
)
from gateway.model.principal import Principal, Role
from gateway.model.project import Project
from gateway.model.token import Token, narrowed
from gateway.model.user import User
from gateway.model.volume import VolumeRequest
from gateway.store import named, projects, sessions, tokens, users


async def check(gateway: Gateway, caller: Principal, question: CheckRequest) -> Decision:
    """What the policies say, and why. Operators ask as anybody, others as themselves."""
    asker = await _as_whom(gateway, caller, question)
    if question.action == "create":
        if question.request is None:
            raise Invalid("say what would be asked for", hint="`request` with a recipe; --recipe NAME.")
        given = await admission.plan_for(gateway, asker, question.request, hour=question.hour, weekday=question.weekday)
        return given.decision
    subject = await gateway.db.read(lambda connection: _subject(gateway, connection, caller, asker, question))
    return gateway.policies.decide(
        asker, question.action, subject, now(gateway), hour=question.hour, weekday=question.weekday
    )


async def _as_whom(gateway: Gateway, caller: Principal, question: CheckRequest) -> Principal:
    found = caller
    if question.user not in (None, caller.name):
        wanted = str(question.user)
        if not caller.everywhere:
            raise forbidden(
                "fixed-ask-as", "only operators ask as somebody else", "Leave --as away to ask as yourself."
            )

        def load(connection: Connection) -> Principal:
            user_id = users.id_of(connection, wanted)
            if user_id is None:
                raise UserNotFound(f"there is no user {wanted!r}", hint="`sluice user list` shows them.")
            return users.person_of(connection, user_id).principal()

        found = await gateway.db.read(load)
    return found if question.origin is None else found.model_copy(update={"origin": question.origin})


def _subject(
    gateway: Gateway, connection: Connection, caller: Principal, asker: Principal, question: CheckRequest
) -> Thing:
    action = question.action
    if action in SESSION_ACTIONS:
        if question.session is None:
            raise Invalid("say which session", hint="--session NAME.")
        session = sessions.get(connection, caller, question.session)
        return subject_of(session, projects.labels(connection, session.project))
    if action in KEPT_ACTIONS:
        return _kept(gateway, connection, caller, asker, question)
    if action in PERSON_ACTIONS:
        return _person(gateway, connection, caller, question)
    if action in PROJECT_ACTIONS:
        return _project(gateway, connection, caller, question)
    return _token(gateway, connection, caller, asker, question)


def _kept(
    gateway: Gateway, connection: Connection, caller: Principal, asker: Principal, question: CheckRequest
) -> Kept:
    """A secret or volume of the asker's own, or of a project that the caller may know of."""
    if (question.secret is None) == (question.volume is None):
        raise Invalid("say which secret, or which volume", hint="--secret NAME, --volume NAME.")
    labels = projects.get(connection, caller, question.project).labels if question.project is not None else {}
    whose = {"owner": asker.name if question.project is None else None, "project": question.project}
    if question.secret is not None:
        return Kept(kind="Secret", id="", name=question.secret, labels=labels, **whose)
    name = str(question.volume)
    if question.place is None and (question.project is not None or asker.id == caller.id):
        with suppress(NotFound):
            found = named.get(connection, volumes.KEEPER.shelf, caller, name, question.project)
            return keeping.subject_of(connection, caller, found)
    place = question.place or VolumeRequest.model_validate({})
    cluster = gateway.cluster(place.cluster)
    volumes.class_of(cluster, place.volume_class, question.project)
    seen = {"cluster": cluster.name, "volume_class": place.volume_class, "path": place.path or name}
    return Kept(kind="Volume", id="", name=name, labels=labels, **whose, **seen)


def _person(gateway: Gateway, connection: Connection, caller: Principal, question: CheckRequest) -> Ruled:
    changes = sorted(question.changes)
    if question.on is not None:
        with suppress(UserNotFound):
            return ruling.user(connection, users.get(connection, caller, question.on), changes)
    if question.action not in {"user.create", "user.take_on"}:
        raise UserNotFound(f"there is no user {question.on!r}" if question.on else "say which user", hint="--on NAME.")
    if question.project is not None:
        projects.get(connection, caller, question.project)
    new = User.model_construct(
        id="",
        name=question.on or "",
        kind="service" if question.project is not None else "person",
        admin="admin" in question.changes,
        operator="operator" in question.changes,
        project=question.project,
        created_at=gateway.clock(),
    )
    return ruling.user(connection, new, changes, new=True)


def _project(gateway: Gateway, connection: Connection, caller: Principal, question: CheckRequest) -> Ruled:
    name = question.on or question.project
    if name is None:
        raise Invalid("say which project", hint="--on NAME.")
    try:
        about: Project = projects.get(connection, caller, name)
    except ProjectNotFound:
        if question.action != "project.create":
            raise
        about = Project.model_construct(name=name, created_at=gateway.clock())
    if question.action in {"member.set", "member.remove"}:
        role: Role | None = question.role if question.action == "member.set" else None
        return ruling.place(about, question.member or "", role)
    return ruling.project(about, sorted(question.changes))


def _token(
    gateway: Gateway, connection: Connection, caller: Principal, asker: Principal, question: CheckRequest
) -> Ruled:
    if question.action == "token.revoke":
        if question.on is None:
            raise Invalid("say which token", hint="--on NAME, or its id.")
        view = tokens.get(connection, caller, question.on)
        return ruling.token(connection, view, view.user)
    owner = question.on or asker.name
    if owner != asker.name:
        owner = users.get(connection, caller, owner).name
    made = gateway.clock()
    token = Token(
        id="",
        name="",
        user_id="",
        scopes=narrowed(question.scopes, asker.scopes),
        project=question.project or asker.project,
        session=question.session or asker.session,
        created_at=made,
        created_by=asker.name,
        expires_at=made + timedelta(days=question.days),
    )
    return ruling.token(connection, token, owner)
