"""Policies about people, projects and tokens: what roles and tokens allow, and what sites add."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.policy import ACTIONS as SPELLED
from gateway.core.policies import Policies, require, schema_text
from gateway.errors import PolicyDenied
from gateway.model.policy import ACTIONS, PERSON_ACTIONS, PROJECT_ACTIONS, Action, Ruled
from gateway.model.principal import EVERYTHING, SCOPE_POLICIES, Principal, Role, Scope

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SHIPPED = Policies()


def test_every_action_stands_in_the_schema_and_on_the_command_line() -> None:
    declared = re.findall(r"^action (.*?)\s*appliesTo", schema_text(), re.MULTILINE | re.DOTALL)
    assert sorted(re.findall(r'"([^"]+)"', " ".join(declared))) == sorted(ACTIONS)
    assert tuple(ACTIONS) == SPELLED


def test_a_scope_that_is_missing_names_a_policy_that_there_is() -> None:
    assert set(SCOPE_POLICIES.values()) <= set(SHIPPED.current.rules)


def decide(chosen: Policies, caller: Principal, action: Action, subject: Ruled) -> bool:
    return chosen.decide(caller, action, subject, NOON).allowed


def a_person(
    *, kind: str = "person", project: str | None = None, changes: tuple[str, ...] = (), admin: bool = False
) -> Ruled:
    return Ruled(
        kind="Person",
        id="U1",
        project=project,
        attributes={"id": "U1", "name": "bot", "kind": kind, "state": "active", "admin": admin, "operator": False},
        references={} if project is None else {"project": ("Project", project)},
        context={"changes": changes},
    )


def a_project(name: str = "physics", changes: tuple[str, ...] = ()) -> Ruled:
    return Ruled(kind="Project", id=name, project=name, labels={"tier": "free"}, context={"changes": changes})


def a_place(name: str = "physics", role: str = "member") -> Ruled:
    return Ruled(kind="Project", id=name, project=name, context={"member": "ann", "role": role})


def a_token(owner: str, *, keeper: str | None = None, days: int = 30, **held: str) -> Ruled:
    references = {"owner": ("User", owner)} | ({} if keeper is None else {"keeper": ("Project", keeper)})
    attributes = {"id": "", "name": "ci", "scopes": ("inference",), "days": days, **held}
    return Ruled(kind="Token", id="", project=keeper, attributes=attributes, references=references)


callers = st.builds(
    Principal,
    name=st.sampled_from(["ann", "bob"]),
    admin=st.booleans(),
    operator=st.booleans(),
    projects=st.dictionaries(st.sampled_from(["physics", "art"]), st.sampled_from(list(Role))),
    scopes=st.sampled_from([EVERYTHING, EVERYTHING - {Scope.ADMIN}]),
)
said = st.sets(st.sampled_from(["state", "title", "unix", "admin", "operator"])).map(tuple)


@given(
    caller=callers,
    kind=st.sampled_from(["person", "service", "local"]),
    action=st.sampled_from(["user.create", "user.change", "user.remove"]),
    changes=said,
    admin=st.booleans(),
)
def test_who_keeps_users(
    caller: Principal, kind: str, action: Action, changes: tuple[str, ...], *, admin: bool
) -> None:
    """Operators all; managers the service accounts of their projects; administrators who is one."""
    project = "physics" if kind == "service" else None
    high = admin or bool({"admin", "operator"} & set(changes))
    kept = caller.everywhere or (project is not None and caller.has_role(project, Role.MANAGER))
    expected = (
        Scope.ADMIN in caller.scopes
        and kept
        and (caller.everywhere or "unix" not in changes or action == "user.remove")
        and (caller.admin or not high)
        and (kind != "local" or action == "user.create")
    )
    subject = a_person(kind=kind, project=project, changes=changes, admin=admin)
    assert decide(SHIPPED, caller, action, subject) is expected


@given(caller=callers, changes=st.sets(st.sampled_from(["title", "labels", "shares"])).map(tuple))
def test_who_keeps_projects(caller: Principal, changes: tuple[str, ...]) -> None:
    may, manages = Scope.ADMIN in caller.scopes, caller.has_role("physics", Role.MANAGER)
    project = a_project(changes=changes)
    assert decide(SHIPPED, caller, "project.create", project) is (may and caller.everywhere)
    assert decide(SHIPPED, caller, "project.archive", project) is (may and caller.everywhere)
    change = may and (caller.everywhere or (manages and "shares" not in changes))
    assert decide(SHIPPED, caller, "project.change", project) is change
    for action in ("member.set", "member.remove"):
        assert decide(SHIPPED, caller, action, a_place()) is (may and (caller.everywhere or manages))


@given(caller=callers, owner=st.sampled_from(["ann", "bob"]), service=st.booleans())
def test_who_makes_and_revokes_tokens(caller: Principal, owner: str, *, service: bool) -> None:
    may, keeper = Scope.ADMIN in caller.scopes, "physics" if service else None
    keeps = service and (caller.everywhere or caller.has_role("physics", Role.MANAGER))
    token = a_token(owner, keeper=keeper)
    makes = may and (owner == caller.name or keeps)
    assert decide(SHIPPED, caller, "token.create", token) is makes
    assert decide(SHIPPED, caller, "token.revoke", token) is (makes or (may and caller.admin))


HELD = Principal(name="opa", operator=True, projects={"physics": Role.MANAGER}, token="T", project="physics")
FOR_ONE = Principal(name="opa", operator=True, projects={"physics": Role.MANAGER}, token="T", session="S1")


def test_what_a_token_for_one_project_or_session_takes_away() -> None:
    assert decide(SHIPPED, HELD, "project.change", a_project("physics"))
    assert not decide(SHIPPED, HELD, "project.change", a_project("art"))
    assert not decide(SHIPPED, HELD, "user.change", a_person())
    assert decide(SHIPPED, HELD, "user.change", a_person(kind="service", project="physics"))
    assert not decide(SHIPPED, HELD, "user.change", a_person(kind="service", project="art"))
    assert not any(decide(SHIPPED, FOR_ONE, action, a_person()) for action in PERSON_ACTIONS)
    for verb in PROJECT_ACTIONS:
        assert not decide(SHIPPED, FOR_ONE, verb, a_place() if verb.startswith("member") else a_project())
    assert not decide(SHIPPED, HELD, "token.create", a_token("opa"))
    assert not decide(SHIPPED, HELD, "token.create", a_token("opa", project="art"))
    assert decide(SHIPPED, HELD, "token.create", a_token("opa", project="physics"))
    assert not decide(SHIPPED, FOR_ONE, "token.create", a_token("opa"))
    assert decide(SHIPPED, FOR_ONE, "token.create", a_token("opa", session="S1"))
    weak = HELD.model_copy(update={"scopes": frozenset({Scope.READ})})
    itself = a_token("opa").model_copy(update={"id": "T", "attributes": {**a_token("opa").attributes, "id": "T"}})
    assert decide(SHIPPED, weak, "token.revoke", itself), "any token revokes itself"


SITE = """
@id("short-tokens")
@allows("tokens of at most 30 days")
forbid (principal, action == Action::"token.create", resource)
when { resource.days > 30 };

@id("no-new-managers")
@allows("viewers and members, by managers")
forbid (principal, action == Action::"member.set", resource)
when { context.role == "manager" && resource.hasTag("tier") } unless { principal.operator };
"""


def test_a_site_narrows_it_and_a_denial_says_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "site.cedar").write_text(SITE)
    site, manager = Policies([tmp_path]), Principal(name="max", projects={"physics": Role.MANAGER})
    assert decide(site, manager, "token.create", a_token("max", days=30))
    with pytest.raises(PolicyDenied, match="you may not make this token: forbidden by the policy short-tokens") as one:
        require(site.decide(manager, "token.create", a_token("max", days=31), NOON))
    assert (one.value.hint, one.value.details["policy"]) == ("Allowed: tokens of at most 30 days.", "short-tokens")
    free = a_place(role="manager").model_copy(update={"labels": {"tier": "free"}})
    with pytest.raises(PolicyDenied, match=r"take somebody into this project.*no-new-managers"):
        require(site.decide(manager, "member.set", free, NOON))
    assert decide(site, manager, "member.set", a_place(role="manager"))
    with pytest.raises(PolicyDenied, match="what would permit it is the policy roles-managers, roles-projects"):
        require(site.decide(Principal(name="eve"), "member.set", a_place(), NOON))
