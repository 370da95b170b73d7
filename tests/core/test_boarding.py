"""Who comes, comes back and goes, as far as the database says it; for the rest see tests/cluster/test_people.py.

The Unix users are those of this machine, asked for in a real shell.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.core import boarding, signin, users
from gateway.errors import Conflict, Invalid
from gateway.model.boarding import BoardRequest
from gateway.model.claims import ClaimRules, describe
from gateway.model.principal import LOCAL_ADMIN
from gateway.model.user import Identity, UnixAccount, UserRequest, UserView
from gateway.settings import OidcSettings
from gateway.slurm.transport import LocalShell
from tests.people import a_person, a_project
from tests.services import Site, a_site

ISSUER = "https://idp.example"
UNIX = "nobody"  # there is one everywhere, and here it may be used
GROUPS = {"staff": "physics:manager", "guests": "physics:viewer", "elsewhere": "nowhere:member"}
LOGIN = {"sub": "s-1", "preferred_username": "ann", "login": "a7"}
MAPPINGS: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"unix_user": "claim"}, "ann"),
    ({"unix_user": "claim", "unix_claim": "login"}, "a7"),
    ({"unix_user": "claim", "unix_claim": "none-such"}, None),
    ({"unix_user": "getent", "unix_claim": "login"}, "a7"),
    ({"unix_user": "table", "unix_users": {"s-1": "b8"}}, "b8"),
    ({"unix_user": "table", "unix_users": {"s-2": "b8", "ann": "c9"}}, None),
]


@pytest.fixture
async def site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    asked = {"groups": GROUPS, "admin_groups": ["chiefs"], "operator_groups": ["crew"], **getattr(request, "param", {})}
    identity = {"denied_unix_users": ["bin"], "oidc": asked}
    async with a_site(tmp_path, identity=identity) as made:
        clusters = {"c": replace(made.gateway.clusters["c"], shell=LocalShell())}
        made.gateway = replace(made.gateway, clusters=clusters)
        await a_project(made, "physics")
        yield made


async def comes(site: Site, subject: str = "s-1", **claims: Any) -> UserView:
    """Somebody signs in."""
    said = {"sub": subject, "preferred_username": "ann", **claims}
    person = await signin.admit(site.gateway, Identity(issuer=ISSUER, subject=subject), said)
    return await users.get(site.gateway, LOCAL_ADMIN, person.user.name)


@pytest.mark.parametrize(("settings", "unix"), MAPPINGS)
def test_a_unix_user_comes_from_where_the_site_says(settings: dict[str, Any], unix: str | None) -> None:
    rules = ClaimRules.model_validate(OidcSettings.model_validate(settings).model_dump())
    assert describe(LOGIN, rules, ()).unix == unix


@pytest.mark.parametrize("site", [{"unix_user": "getent", "unix_claim": "login"}], indirect=True)
async def test_a_unix_user_that_may_not_be_is_told_to_the_operator_and_given_to_nobody(site: Site) -> None:
    for subject, login, why in (
        ("s-1", "root", "as root"),
        ("s-2", "daemon", "below 1000"),
        ("s-3", "bin", "as the Unix user bin"),
        ("s-4", "no-such-user", "knows no Unix user"),
    ):
        view = await comes(site, subject, login=login)
        assert (view.unix, why in view.note) == ((), True), view.note
    view = await comes(site, "s-5", login=UNIX)
    assert ([account.name for account in view.unix], view.note, view.state) == ([UNIX], "", "pending")


async def test_groups_give_places_and_rights_and_take_them_away(site: Site) -> None:
    there = await comes(site, groups=["staff", "guests", "elsewhere", "crew"])
    assert (dict(there.projects), there.admin, there.operator) == ({"physics": "manager"}, False, True)
    then = await comes(site, groups=["guests", "chiefs"])
    assert (dict(then.projects), then.admin, then.operator) == ({"physics": "viewer"}, True, False)
    gone = await comes(site)
    assert (dict(gone.projects), gone.admin, gone.operator) == ({}, False, False)


async def test_who_was_removed_is_given_nothing_by_signing_in_again(site: Site) -> None:
    await comes(site, groups=["staff"])
    await users.remove(site.gateway, LOCAL_ADMIN, "ann")
    again = await comes(site, groups=["staff", "chiefs"])
    assert (again.name, again.state, dict(again.projects), again.admin) == ("ann", "removed", {}, False)


async def take_on(site: Site, name: str, **values: Any) -> dict[str, str]:
    asked = BoardRequest.model_validate({"project": "physics", **values})
    view = await boarding.take_on(site.gateway, LOCAL_ADMIN, name, asked)
    return {step.what: step.outcome for step in view.steps}


async def test_who_waits_is_let_in_by_being_taken_on_for_who_they_are(site: Site) -> None:
    """A name can be anybody's: the operator says whom the provider means by it."""
    await comes(site)
    with pytest.raises(Conflict, match="how somebody is called who waits"):
        await take_on(site, "ann")
    known = {"issuer": ISSUER, "subject": "s-1"}
    assert (await take_on(site, "ann", identity=known, dry_run=True))["let in"] == "would"
    assert (await users.get(site.gateway, LOCAL_ADMIN, "ann")).state == "pending"
    assert (await take_on(site, "ann", identity=known))["let in"] == "done"
    assert (await users.get(site.gateway, LOCAL_ADMIN, "ann")).state == "active"
    assert set((await take_on(site, "ann")).values()) == {"already"}


@pytest.mark.parametrize("name", ["a b", "ann\n", "", "a" * 64])
async def test_a_name_that_nobody_can_have_is_refused(site: Site, name: str) -> None:
    with pytest.raises(Invalid, match="cannot be a user's name"):
        await take_on(site, name, unix={"c": UNIX})


async def test_who_is_called_as_no_unix_user_can_be_needs_one(site: Site) -> None:
    await a_project(site, "alpha", shares=[{"cluster": "c", "account": "research"}])
    with pytest.raises(Invalid, match="'7' cannot be a Unix user's name on cluster c"):
        await take_on(site, "7", project="alpha")
    assert (await take_on(site, "7", project="alpha", unix={"c": UNIX}))["user 7"] == "done"


async def test_who_is_kept_out_or_signs_in_as_another_is_not_taken_on(site: Site) -> None:
    await comes(site)
    await users.change(site.gateway, LOCAL_ADMIN, "ann", UserRequest(state="disabled"))
    with pytest.raises(Conflict, match="kept out"):
        await take_on(site, "ann")
    await users.change(site.gateway, LOCAL_ADMIN, "ann", UserRequest(state="active"))
    with pytest.raises(Conflict, match="does not sign in as s-9"):
        await take_on(site, "ann", identity={"issuer": ISSUER, "subject": "s-9"})
    assert (await take_on(site, "ann", identity={"issuer": ISSUER, "subject": "s-1"}))["member of project physics"]


async def test_a_unix_user_of_somebody_else_is_given_to_nobody_before_they_have_left(site: Site) -> None:
    await a_person(site, "ben", {}, unix=UNIX)
    failed = await take_on(site, "bea", unix={"c": UNIX})
    assert failed == {"user bea": "failed", "member of project physics": "failed"}
    await users.remove(site.gateway, LOCAL_ADMIN, "ben")
    await take_on(site, "bea", unix={"c": UNIX})
    accounts = {name: (await users.get(site.gateway, LOCAL_ADMIN, name)).unix for name in ("bea", "ben")}
    assert accounts["ben"] == ()
    assert accounts["bea"] == (UnixAccount(cluster="c", name=UNIX, uid=accounts["bea"][0].uid),)


@pytest.mark.parametrize("site", [{"unix_user": "claim", "unix_claim": "login"}], indirect=True)
async def test_no_claim_gives_the_unix_user_of_who_was_removed(site: Site) -> None:
    await a_person(site, "ben", {}, unix=UNIX)
    await users.remove(site.gateway, LOCAL_ADMIN, "ben")
    came = await comes(site, "s-2", login=UNIX)
    assert (came.unix, "another user's already" in came.note) == ((), True)
