"""Who may know of what: the rows that a caller gets are those that `Principal.sees`, and none besides."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from gateway.errors import Conflict, ProjectNotFound, SessionNotFound, UserNotFound
from gateway.model.job import Job, job_name
from gateway.model.plan import PinnedImage, Plan
from gateway.model.principal import LOCAL_ADMIN, Principal, Role
from gateway.model.project import Member, Project, Share
from gateway.model.session import Session
from gateway.model.user import Identity, UnixAccount, User
from gateway.store import events, projects, revision, sessions, tokens, users
from gateway.store.database import Database
from gateway.store.sessions import SessionQuery

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PEOPLE, PROJECTS = ("ann", "ben", "cy"), ("alpha", "beta")
PLAN = Plan(
    recipe="echo",
    version="1",
    digest="0" * 64,
    kind="batch",
    image=PinnedImage(name="base", path="/base.sif", sha256="b" * 64),
    command=("true",),
)
ALL = [
    Session(
        id=f"01JD{number:022d}",
        name=f"{owner}-{project}",
        owner=owner,
        project=project,
        cluster="c",
        unix_user=owner,
        plan=PLAN,
        created_at=NOW,
        updated_at=NOW,
        job=Job(session_id=f"01JD{number:022d}", attempt=1, name=job_name(f"01JD{number:022d}", 1)),
    )
    for number, (owner, project) in enumerate((owner, project) for owner in PEOPLE for project in PROJECTS)
]
callers = st.builds(
    Principal,
    name=st.sampled_from([*PEOPLE, "nobody"]),
    admin=st.booleans(),
    operator=st.booleans(),
    projects=st.dictionaries(st.sampled_from([*PROJECTS, "gamma"]), st.sampled_from(list(Role))),
    session=st.none() | st.sampled_from([session.id for session in ALL]),
    project=st.none() | st.sampled_from(PROJECTS),
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Database:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('people') / 'sluice.db'}")
    database.open()
    with database.writing.begin() as connection:
        for session in ALL:
            sessions.add(connection, session)
    return database


@settings(deadline=None)
@given(caller=callers)
def test_the_rows_of_a_caller_are_what_the_caller_sees(filled: Database, caller: Principal) -> None:
    seen = {session.id for session in ALL if caller.sees(session)}
    with filled.reading.connect() as connection:
        found, _ = sessions.find(connection, caller, SessionQuery(limit=99))
        told = {event.session_id for event in events.after(connection, caller, 0)}
        assert {session.id for session in found} == told == seen
        for session in ALL:
            if session.id in seen:
                assert sessions.get(connection, caller, session.id).id == session.id
            else:
                with pytest.raises(SessionNotFound):
                    sessions.get(connection, caller, session.id)


@given(caller=callers)
def test_who_may_do_more_may_do_less(caller: Principal) -> None:
    for session in ALL:
        does = caller.changes(session) or caller.calls(session) or caller.enters(session)
        assert not does or caller.sees(session)


MAY: Mapping[str, tuple[bool, bool, bool, bool]] = {
    "owner": (True, True, True, True),
    "viewer": (True, False, False, False),
    "member": (True, False, True, False),
    "manager": (True, True, True, False),
    "stranger": (False, False, False, False),
    "operator": (True, True, False, False),
    "admin": (True, True, True, False),
}


@pytest.mark.parametrize("who", MAY)
def test_what_each_may_do_with_a_session(who: str) -> None:
    session = ALL[0]
    role = {"alpha": Role(who)} if who in set(Role) else {"beta": Role.MANAGER}
    caller = Principal(
        name="ann" if who == "owner" else "dora", projects=role, operator=who == "operator", admin=who == "admin"
    )
    did = caller.sees(session), caller.changes(session), caller.calls(session), caller.enters(session)
    assert did == MAY[who]


def user(name: str, **changes: object) -> User:
    made = User(id=f"01JE{name:>022}".replace(" ", "0").upper()[:26], name=name, created_at=NOW)
    return made.model_copy(update=changes)


Put = Callable[[Connection], None]


async def test_names_identities_and_unix_users_are_never_given_twice(database: Database) -> None:
    who = Identity(issuer="https://idp", subject="1")
    alice = [UnixAccount(cluster="c", name="alice")]
    await database.write(lambda c: users.add(c, user("ann"), identity=who, unix=alice))
    with pytest.raises(Conflict, match="'ann'"):
        await database.write(lambda c: users.add(c, user("ann", id="X" * 26)))
    with pytest.raises(Conflict, match="identity"):
        await database.write(lambda c: users.add(c, user("ben"), identity=who))
    with pytest.raises(Conflict, match="Unix user alice"):
        await database.write(lambda c: users.add(c, user("ben"), unix=alice))
    assert await database.read(users.by_identity, Identity(issuer="https://other", subject="1")) is None
    found = await database.read(users.by_identity, who)
    assert found is not None
    assert found.name == "ann"
    await database.write(lambda c: users.save(c, found.model_copy(update={"state": "removed"})))
    with pytest.raises(Conflict):
        await database.write(lambda c: users.add(c, user("ann", id="Y" * 26)))


async def test_projects_are_known_to_their_members_and_to_operators(database: Database) -> None:
    project = Project(name="alpha", created_at=NOW, shares=(Share(cluster="c", account="research"),))
    await database.write(users.add, user("ann"))
    await database.write(projects.add, project)
    await database.write(projects.set_member, "alpha", user("ann").id, Member(user="ann", role=Role.MANAGER))
    ann = await database.read(users.person, user("ann").id)
    assert ann is not None
    caller = ann.principal()
    assert caller.projects == {"alpha": Role.MANAGER}
    view = await database.read(projects.get, caller, "alpha")
    assert view.shares == project.shares
    assert [(member.user, member.role) for member in view.members] == [("ann", Role.MANAGER)]
    assert [each.name for each in await database.read(projects.find, caller)] == ["alpha"]
    assert [each.name for each in await database.read(projects.find, LOCAL_ADMIN)] == ["alpha", "default"]
    stranger = Principal(name="ben", id="B" * 26)
    assert await database.read(projects.find, stranger) == []
    with pytest.raises(ProjectNotFound):
        await database.read(projects.get, stranger, "alpha")
    with pytest.raises(UserNotFound):
        await database.read(users.get, stranger, "ann")
    assert await database.read(tokens.find, stranger) == []


async def test_groups_give_and_take_places_and_leave_those_given_by_hand(database: Database) -> None:
    for name in PROJECTS:
        await database.write(projects.add, Project(name=name, created_at=NOW))
    ann = user("ann")
    await database.write(lambda c: users.add(c, ann))
    await database.write(projects.set_member, "alpha", ann.id, Member(user="ann", role=Role.VIEWER))
    both = {"alpha": Role.MANAGER, "beta": Role.MEMBER}

    async def roles() -> Mapping[str, Role]:
        person = await database.read(users.person, ann.id)
        return person.projects if person is not None else {}

    await database.write(users.set_group_roles, ann.id, both)
    assert await roles() == {"alpha": Role.VIEWER, "beta": Role.MEMBER}
    await database.write(users.set_group_roles, ann.id, {})
    assert await roles() == {"alpha": Role.VIEWER}


async def test_every_change_of_rights_raises_the_number(database: Database) -> None:
    before = await database.read(revision.current)
    await database.write(lambda c: users.add(c, user("ann")))
    after = await database.read(revision.current)
    await database.write(tokens.revoke_all, user("ann").id, NOW)
    assert before < after < await database.read(revision.current)
