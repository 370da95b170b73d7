"""Every denial names what denies it and says what would be allowed: policies of a site, shipped ones, and fixed rules.

Here a site's policy permits everything with sessions to everybody, so that what denies is what no policy changes.
"""

import ast
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.core import audit, checking, files, inside, openings, placement, scaling, secrets, sessions, tasks, tokens
from gateway.core.context import Gateway
from gateway.core.tasks import Asked
from gateway.core.unix import user_of
from gateway.errors import Forbidden
from gateway.model.api import UpdateRequest
from gateway.model.fixed import FIXED
from gateway.model.policy import CheckRequest
from gateway.model.principal import Principal
from gateway.model.project import Share
from gateway.model.resources import Resources
from gateway.model.secret import SecretRequest
from gateway.model.token import TokenRequest
from gateway.model.user import Person, User, check_unix
from gateway.web.caller import from_our_page
from tests.people import principal
from tests.town import Town, a_town

ROOT = Path(__file__).parents[2]
ALL = '@id("site-all") @allows("everything") permit (principal, action, resource is Session);'
NOBODY = Principal(name="nobody")
SHARE = Share(cluster="c", account="research", qos=("normal",), partitions=("cpu",))


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "all.cedar").write_text(ALL)
    async with a_town(tmp_path, policies=[policies]) as made:
        yield made


async def _some() -> AsyncIterator[bytes]:
    yield b'{"prompt": "hi"}\n'


def _as(gateway: Gateway, state: str) -> Principal:
    user = User.model_validate({"id": "U1", "name": "new", "state": state, "created_at": gateway.clock()})
    return Person(user=user).principal()


async def test_every_fixed_rule_is_named_by_its_denial(town: Town) -> None:
    gateway = town.site.gateway
    ann, vic, ben, ola = [await principal(town.site, name) for name in ("ann", "vic", "ben", "ola")]
    session = (await town.start("ann", recipe="chat"))["id"]
    share, asked = SHARE.check, Asked(session=session)
    task, _ = await tasks.create(gateway, ann, asked, "in.jsonl", _some())

    async def start(caller: Principal) -> object:
        return await placement.place(gateway, caller, None, gateway.cluster("c"))

    cases: dict[str, list[Callable[[], Awaitable[object] | object]]] = {
        "fixed-pages": [lambda: openings.make(gateway, vic, session)],
        "fixed-enter": [lambda: inside.enter(gateway, vic, session)],
        "fixed-again": [
            lambda: scaling.update(gateway, ola, session, UpdateRequest(parameters={})),
            lambda: scaling.resume(gateway, ola, session),
        ],
        "fixed-change": [
            lambda: sessions.stop(gateway, vic, session),
            lambda: scaling.extend(gateway, vic, session, gateway.clock() - gateway.clock()),
        ],
        "fixed-call": [lambda: tasks.create(gateway, vic, asked, "in.jsonl", _some())],
        "fixed-results": [lambda: tasks.outcome(gateway, ola, task.id)],
        "fixed-member": [lambda: placement.choose(ola)],
        "fixed-account": [lambda: start(ben)],
        "fixed-shares": [
            lambda: share("alpha", Resources(account="other")),
            lambda: share("alpha", Resources(account="research", qos="high")),
            lambda: share("alpha", Resources(account="research", partition="cpu,debug")),
        ],
        "fixed-unix-user": [lambda: user_of(gateway, NOBODY, gateway.cluster("c"))],
        "fixed-unix-root": [
            lambda: check_unix("root", None, floor=1000, denied=()),
            lambda: check_unix("toor", 0, floor=1000, denied=()),
        ],
        "fixed-unix-name": [lambda: check_unix("no name", 2000, floor=1000, denied=())],
        "fixed-unix-denied": [lambda: check_unix("slurm", 2000, floor=1000, denied=("slurm",))],
        "fixed-unix-floor": [lambda: check_unix("games", 5, floor=1000, denied=())],
        "fixed-pending": [lambda: _as(gateway, "pending")],
        "fixed-state": [lambda: _as(gateway, "disabled"), lambda: _as(gateway, "removed")],
        "fixed-somebody": [
            lambda: tokens.create(gateway, NOBODY, TokenRequest(name="t")),
            lambda: secrets.put(gateway, NOBODY, "hub", SecretRequest.model_validate({"value": "x"})),
            lambda: files.begin(gateway, NOBODY, "in.jsonl"),
        ],
        "fixed-ask-as": [lambda: checking.check(gateway, ann, CheckRequest(user="ben"))],
        "fixed-audit-head": [lambda: audit.head(gateway, ann)],
        "fixed-same-origin": [lambda: from_our_page({}, "cookie", "other")],
    }
    elsewhere = {"fixed-unix-same"}  # tests/web/test_peers.py, where the kernel says who asks
    assert set(cases) | elsewhere == set(FIXED), "each rule is here, and each that is here is one"
    for rule, tries in cases.items():
        for attempt in tries:
            error = await _denied(attempt)
            assert error.details["policy"] == rule, error
            assert error.hint.startswith(f"Allowed: {FIXED[rule].allows}"), error
            assert FIXED[rule].said_by in error.hint
            assert error.details["policies"][0]["allows"] == FIXED[rule].allows


async def _denied(attempt: Callable[[], Awaitable[object] | object]) -> Forbidden:
    async def make() -> None:
        found = attempt()
        if isinstance(found, Awaitable):
            await found

    with pytest.raises(Forbidden) as caught:
        await make()
    return caught.value


ASKED: list[tuple[str, str, str, object, str]] = [
    ("ann", "GET", "/api/v1/audit/head", None, "fixed-audit-head"),
    ("ann", "POST", "/api/v1/policies/check", {"user": "ben", "action": "create"}, "fixed-ask-as"),
    ("ann", "POST", "/api/v1/sessions", {"recipe": "count", "resources": {"account": "x"}}, "fixed-shares"),
    ("ben", "POST", "/api/v1/sessions", {"recipe": "count"}, "fixed-account"),
    ("ola", "PATCH", "/api/v1/users/ann", {"unix": [{"cluster": "c", "name": "slurm"}]}, "fixed-unix-denied"),
    ("ola", "PATCH", "/api/v1/users/ann", {"unix": [{"cluster": "c", "name": "root"}]}, "fixed-unix-root"),
    ("may", "PATCH", "/api/v1/projects/alpha", {"shares": []}, "roles-shares"),
    ("vic", "POST", "/api/v1/sessions", {"recipe": "count", "project": "alpha"}, "roles-create"),
]


async def test_callers_and_the_audit_log_are_told(town: Town) -> None:
    for who, method, path, body, policy in ASKED:
        answer = await town.ask(who, method, path, body)
        said = answer.json()
        assert (answer.status_code, said["policy"]) == (403, policy), said
        assert said["hint"].startswith("A manager can change" if policy == "roles-create" else "Allowed: "), said

    async def told() -> bool:
        found = (await town.ask("ola", "GET", "/api/v1/audit?decision=deny")).json()["items"]
        return {policy for *_, policy in ASKED} <= {row["policy"] for row in found}

    await town.site.until(told, "the rows of the audit log")


async def test_the_list_of_policies_has_the_fixed_rules(town: Town) -> None:
    items = (await town.ask("ann", "GET", "/api/v1/policies")).json()["items"]
    fixed = {view["id"]: view["allows"] for view in items if view["effect"] == "fixed"}
    assert fixed == {rule.name: rule.allows for rule in FIXED.values()}


#: What others refuse, whose words are in the message: Slurm, its tools, the file system, sshd.
OTHERS = ("gateway/slurm/", "gateway/core/boarding.py", "gateway/cli/user.py")
#: No caller is answered with it: an answer that has begun is cut off.
UNSAID = ("gateway/client/vigil.py",)


def test_no_denial_is_raised_without_a_name() -> None:
    bare = []
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        place = str(path.relative_to(ROOT))
        if place.startswith((*OTHERS, *UNSAID)):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"Forbidden", "PolicyDenied"}:
                named = {keyword.arg for keyword in node.keywords}
                bare += [] if "policy" in named else [f"{place}:{node.lineno}"]
    assert bare == []
