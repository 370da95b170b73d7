"""The whole OpenAPI, asked at random as four kinds of caller: no fault of ours, no word about another's work."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case
from schemathesis.core.result import Ok
from schemathesis.transport import SerializationContext

from gateway.core import projects, secrets, sessions, tokens, users, volumes
from gateway.model.api import SessionRequest
from gateway.model.principal import LOCAL_ADMIN, Principal
from gateway.model.project import ProjectRequest
from gateway.model.secret import SecretRequest
from gateway.model.token import TokenRequest
from gateway.model.user import UserRequest
from gateway.model.volume import VolumeRequest
from tests.live import Live, live
from tests.people import Somebody, a_person, a_project, a_token, principal

EXAMPLES = 4
WITHIN = 60
#: Operations that end another way than by their answer, and how they are asked to.
ENDLESS = {"follow": "false", "until_end": "false"}
#: Parameters of paths, and what there is to be found by them.
KNOWN = {
    "ref": ("mine", "theirs", "hidden-token"),
    "name": ("hub", "data", "alpha", "beta", "ann", "ben", "count", "chat"),
    "user": ("ann", "ben"),
}


@dataclass
class Kind:
    """A kind of caller, and the words that no answer to them may hold."""

    name: str
    token: str | None
    unseen: tuple[str, ...]
    failures: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


async def planted(site: Any, who: str, project: str) -> Somebody:
    """Somebody with a marked word in everything of theirs that could be shown."""
    gateway, mark = site.gateway, f"MARKOF{who.upper()}"
    await a_project(site, project, shares=[{"cluster": "c", "account": "research"}])
    change = ProjectRequest(title=f"{mark}-project", labels={"mark": f"{mark}-label"})
    await projects.change(gateway, LOCAL_ADMIN, project, change)
    made = await a_person(site, who, {project: "manager"}, unix=f"{mark.lower()}-u")
    await users.change(gateway, LOCAL_ADMIN, who, UserRequest(title=f"{mark}-person"))
    caller: Principal = await principal(site, who)
    await volumes.put(gateway, caller, "data", VolumeRequest(path=f"{mark}-path"))
    for of in (None, project):
        value = SecretRequest.model_validate({"value": f"{mark}-VALUE"})
        await secrets.put(gateway, caller, "hub", value, of)
    asked = {"recipe": "count", "project": project, "labels": {"mark": f"{mark}-session"}}
    for name in ("mine", f"{mark.lower()}-session"):
        await sessions.create(gateway, caller, SessionRequest.model_validate({**asked, "name": name}))
    await tokens.create(gateway, caller, TokenRequest(name=f"{mark}-token"))
    return made


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("whole")) as made:
        yield made


@pytest.fixture(scope="module")
def kinds(gateway: Live) -> list[Kind]:
    async def people() -> tuple[Somebody, Somebody, Somebody]:
        site = gateway.site
        ann, ben = await planted(site, "ann", "alpha"), await planted(site, "ben", "beta")
        await a_person(site, "ola", {}, operator=True)
        return ann, ben, await a_token(site, "ola")

    ann, ben, ola = gateway.do(people())
    values = ("MARKOFANN-VALUE", "MARKOFBEN-VALUE", gateway.token)
    return [
        Kind("nobody", None, ("MARKOFANN", "markofann", "MARKOFBEN", "markofben", *values)),
        Kind("a member", ann.token, ("MARKOFBEN", "markofben", *values)),
        Kind("a manager of another project", ben.token, ("MARKOFANN", "markofann", *values)),
        Kind("an operator", ola.token, values),
    ]


@schemathesis.serializer("application/jsonl")
def as_lines(ctx: SerializationContext, value: Any) -> bytes:
    """A text is the lines themselves; anything else is one."""
    del ctx
    return (value if isinstance(value, str) else json.dumps(value)).encode(errors="surrogatepass")


def operations(gateway: Live) -> list[APIOperation[Any, Any, Any, Any]]:
    """All of them; those that change something come last."""
    headers = {"Authorization": f"Bearer {gateway.token}"}
    schema = schemathesis.openapi.from_url(f"{gateway.url}/api/v1/openapi.json", headers=headers)
    found = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        found.append(result.ok())
    return sorted(found, key=lambda operation: operation.method.lower() != "get")


def ask(operation: APIOperation[Any, Any, Any, Any], kind: Kind) -> None:
    names = [parameter.name for parameter in operation.path_parameters]
    endless = {name: value for name, value in ENDLESS.items() if name in {one.name for one in operation.query}}

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(), st.data())
    def asked(case: "Case[Any]", data: st.DataObject) -> None:
        for name in names:
            if name in KNOWN and data.draw(st.integers(0, 3)):
                case.path_parameters = {**case.path_parameters, name: data.draw(st.sampled_from(KNOWN[name]))}
        if endless:
            case.query = {**(case.query or {}), **endless}
        response = case.call(headers=kind.headers, timeout=WITHIN)
        where = f"{kind.name}: {case.method} {case.formatted_path}: {response.status_code} {response.text[:300]}"
        kind.statuses.append(response.status_code)
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            kind.failures.append(where)
        kind.failures += [f"{word} in {where}" for word in kind.unseen if word in response.text]

    asked()


def planted_is_found(gateway: Live, kinds: list[Kind]) -> None:
    """Else the search would find nothing whatever leaks."""
    with httpx.Client(base_url=f"{gateway.url}/api/v1", timeout=WITHIN) as http:
        for place in ("/projects", "/volumes", "/sessions", "/me"):
            assert "markofann" in http.get(place, headers=kinds[1].headers).text.lower(), place
        assert "MARKOFANN" in http.get("/projects", headers=kinds[3].headers).text


def test_no_fault_and_no_leak(gateway: Live, kinds: list[Kind]) -> None:
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    everything = operations(gateway)
    assert len(everything) > 50
    planted_is_found(gateway, kinds)
    for kind in kinds:
        for operation in everything:
            ask(operation, kind)
    for kind in kinds:
        done = sum(status < HTTPStatus.BAD_REQUEST for status in kind.statuses)
        assert (done > len(kind.statuses) / 10) is (kind.token is not None), (kind.name, Counter(kind.statuses))
    assert [failure for kind in kinds for failure in kind.failures] == []
