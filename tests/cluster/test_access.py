"""Every cell of docs/reference/access.md on a real cluster with a real provider: by API, command line and browser."""

import base64
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from playwright.sync_api import Browser, BrowserContext, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from gateway.cli.main import main
from gateway.cluster import Cluster
from tests.cluster.access import CALLERS, KNOWN, NOBODY, OPERATIONS, PAGE, SOUGHT, answer, page
from tests.oidc import AUDIENCE, Provider, a_provider
from tests.ports import free_port
from tests.product import Product, serving
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CHROMIUM = "/usr/bin/chromium"
WITHIN = 120
PEOPLE = {
    # who: project, role, Unix user
    "own": ("physics", "member", "alice"),
    "member": ("physics", "member", "mel"),
    "viewer": ("physics", "viewer", None),
    "manager": ("physics", "manager", "max"),
    "other": ("chemistry", "manager", "bob"),
    "operator": (None, None, None),
}
ANY_NUMBER = "failed_sign_ins_per_minute = 0"  # of those who are nobody, all from one address
PROOF = "alice/access/notes/proof"
MORE_UNIX_USERS = {"mel": 2101, "max": 2102}
RECIPE = """
name: tiny
version: "1"
kind: service
image: base
service: {protocol: openai, model: tiny}
resources: {cpus: 1, memory: 100M, time: 30m}
script: |
  #!/usr/bin/perl
  use strict;
  use IO::Socket::UNIX;
  $| = 1;
  $SIG{CHLD} = 'IGNORE';
  my $server = IO::Socket::UNIX->new(Local => $ENV{SLUICE_SOCKET}, Listen => 64) or die $!;
  print "listening\\n";
  while (1) {
    my $caller = $server->accept or next;
    next if fork;
    my $length = 0;
    while (my $line = <$caller>) {
      $length = $1 if $line =~ /^content-length:\\s*(\\d+)/i;
      last if $line =~ /^\\r?\\n$/;
    }
    my $body = '';
    read($caller, $body, $length) if $length;
    my $said = '"choices":[{"index":0,"text":"hi","finish_reason":"stop","';
    my ($kind, $text) = ('application/json', "{$said" . 'message":{"role":"assistant","content":"hi"}}]}');
    ($kind, $text) = ('text/event-stream', "data: {$said" . 'delta":{"content":"hi"}}]}' . "\\n\\ndata: [DONE]\\n\\n")
      if $body =~ /"stream": ?true/;
    my $size = length($text);
    print $caller "HTTP/1.1 200 OK\\r\\ncontent-type: $kind\\r\\ncontent-length: $size\\r\\n";
    print $caller "connection: close\\r\\n\\r\\n$text";
    exit;
  }
"""


@dataclass
class House:
    """A gateway with people, a session of the owner's that is ready, one to be stopped, and what callers show."""

    product: Product
    provider: Provider
    url: str
    session: str
    stopped: str
    shown: Mapping[str, str]

    @property
    def ours(self) -> dict[str, str]:
        """What a browser says of a request that a page of the gateway's own sends."""
        return {"Origin": self.url, "Sec-Fetch-Site": "same-origin"}

    def headers(self, caller: str) -> dict[str, str]:
        if caller == "forged":
            cookies = f"__Host-sluice={'A' * 43}; sluice-session=session.{self.session}.own.9999999999.AAAA"
            return {"Cookie": cookies, **self.ours}
        return {"Authorization": f"Bearer {self.shown[caller]}"} if caller in self.shown else {}

    def filled(self, text: str) -> str:
        return text.replace("{session}", self.session).replace("{stopped}", self.stopped)

    def ask(self, operation: str, caller: str, http: httpx.Client) -> httpx.Response:
        asked = OPERATIONS[operation]
        content = self.filled(asked.body) if asked.body else None
        headers = {**self.headers(caller), **({"Content-Type": "application/json"} if content else {})}
        return http.request(asked.method, self.filled(asked.path), content=content, headers=headers)

    def told(self, operation: str, status: int, text: str) -> str:
        """An answer as the table says it."""
        sought = SOUGHT.get(operation)
        return f"{status}-" if status < 400 and sought and self.filled(sought) not in text else str(status)


def subject(who: str) -> str:
    return f"s-{who}"


@pytest.fixture(scope="module")
def unix_users(slurm_cluster: Cluster) -> Iterator[None]:
    """Unix users of two more people, where the gateway looks for them; nothing of theirs runs."""
    for name, uid in MORE_UNIX_USERS.items():
        slurm_cluster.exec("login", ["useradd", "-M", "-u", str(uid), "-p", "*", name])
    yield
    for name in MORE_UNIX_USERS:
        slurm_cluster.exec("login", ["userdel", "-f", name], check=False)


@pytest.fixture(scope="module")
def house(slurm_cluster: Cluster, unix_users: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    del unix_users
    folder = tmp_path_factory.mktemp("house")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "tiny.yaml").write_text(RECIPE)
    (folder / "secret").write_text("of the gateway\n")
    port = free_port()
    url = f"http://localhost:{port}"
    accounts = {subject(who): {"preferred_username": who} for who in PEOPLE}
    with a_provider(folder / "provider", accounts, url) as provider:
        more = f"""
[identity.oidc]
issuer = "{provider.issuer}"
audience = "{AUDIENCE}"
client_secret_file = "{folder / "secret"}"
public_url = "{url}"
keys_seconds = 1
[clusters.{slurm_cluster.name}.volumes]
home = {{ root = "~" }}
project = {{ root = "/home/projects/{{project}}", of = "project" }}
"""
        with serving(slurm_cluster, folder, port, more, ANY_NUMBER) as product:
            yield furnished(product, provider, url)
            for session in product.json("list"):
                product.sluice("stop", session["id"])
            until(lambda: product.json("list") == [], what="the sessions have ended")


def furnished(product: Product, provider: Provider, url: str) -> House:
    """People, sessions, volumes, secrets, and what is shown by those who are nobody."""
    built = product.sluice("image", "build", "base", within=600)
    assert built.returncode == 0, built.stderr
    with httpx.Client(
        base_url=f"{url}/api/v1", headers=bearer(product.environment["SLUICE_TOKEN"]), timeout=60
    ) as http:
        for project, account in (("physics", "research"), ("chemistry", "teaching")):
            shares = [{"cluster": product.cluster.name, "account": account, "partitions": ["cpu"]}]
            done(http.post("/projects", json={"name": project, "shares": shares}))
        for who, (place, role, unix) in PEOPLE.items():
            known = {"identity": {"issuer": provider.issuer, "subject": subject(who)}, "operator": place is None}
            accounts = [{"cluster": product.cluster.name, "name": unix}] if unix is not None else []
            done(http.post("/users", json={"name": who, "unix": accounts, **known}))
            if place is not None:
                done(http.put(f"/projects/{place}/members/{who}", json={"role": role}))
        old = provider.token(subject("own"))
        done(http.get("/me", headers=bearer(old)))
        provider.rotate()
        until(lambda: http.get("/me", headers=bearer(provider.token(subject("own")))).is_success, what="new keys")
        shown = {who: provider.token(subject(who), exp=int(time.time()) + 1800) for who in PEOPLE}
        own, manager = bearer(shown["own"]), bearer(shown["manager"])
        kept: list[tuple[str, dict[str, str], dict[str, str]]] = [
            ("/volumes/notes", {"path": "access/notes"}, own),
            ("/volumes/shared?project=physics", {"volume_class": "project"}, manager),
            ("/secrets/hub", {"value": "hunter2-of-the-owner"}, own),
            ("/secrets/store?project=physics", {"value": "hunter2-of-physics"}, manager),
        ]
        for path, body, hand in kept:
            done(http.put(path, json=body, headers=hand))
        revoked = done(http.post("/tokens", json={"name": "gone"}, headers=own))
        done(http.get("/me", headers=bearer(revoked["token"])))
        done(http.delete("/tokens/gone", headers=own))
        command = "echo written > /volumes/notes/proof; sleep 900"
        stopped = {"recipe": "shell-command", "parameters": {"command": command}, "volumes": [{"name": "notes"}]}
        session = done(http.post("/sessions", json={"recipe": "tiny"}, headers=own))["id"]
        sleeping = done(http.post("/sessions", json=stopped, headers=own))["id"]
        until_phase(http, session, "ready")
        until_phase(http, sleeping, "running")
        until((product.cluster.home / PROOF).exists, what="the session has written to its volume")
    claims = shown["own"].split(".")[1]
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').decode().rstrip("=")
    nobody = {
        "expired": provider.token(subject("own"), exp=int(time.time()) - 600),
        "revoked": revoked["token"],
        "audience": provider.token(subject("own"), aud="https://another.example"),
        "unsigned": f"{none}.{claims}.",
        "old-key": old,
    }
    return House(product, provider, url, session, sleeping, {**shown, **nobody})


def until_phase(http: httpx.Client, session: str, phase: str) -> None:
    def reached() -> Any:
        view = done(http.get(f"/sessions/{session}"))
        assert view["phase"] == phase or not view["ended"], view
        return view["phase"]

    until(reached, lambda now: now == phase)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def done(answered: httpx.Response) -> Any:
    assert answered.is_success, answered.text
    return answered.json() if answered.content else None


def test_the_page_says_what_is_asked() -> None:
    assert PAGE.read_text() == page(), "python -m tests.cluster.access"


@pytest.mark.parametrize("caller", sorted(CALLERS, key=lambda caller: caller in KNOWN))
def test_by_the_api(house: House, caller: str) -> None:
    """Those who may not come first: what they may not stop is not stopped."""
    found, expected, leaks = {}, {}, []
    with httpx.Client(base_url=house.url, timeout=60) as http:
        for operation in OPERATIONS:
            answered = house.ask(operation, caller, http)
            found[operation] = house.told(operation, answered.status_code, answered.text)
            expected[operation] = answer(operation, caller)
            assert "hunter2" not in answered.text
            if caller in {*NOBODY, "other"} and any(word in answered.text for word in ("alice", '"own"', "/home/")):
                leaks.append((operation, answered.text))
        view = http.get(f"/api/v1/sessions/{house.stopped}", headers=house.headers("own")).json()
    assert found == expected
    assert leaks == []
    assert view["stop_requested"] or caller in {*NOBODY, "member", "viewer", "other"}


def test_who_may_use_a_volume_writes_there_as_themselves(house: House) -> None:
    proof = house.product.cluster.home / PROOF
    assert (proof.read_text(), proof.stat().st_uid) == ("written\n", 2001)


EXITS = {"2": 0, "401": 4, "403": 4, "404": 3}


@pytest.mark.parametrize("caller", [caller for caller in CALLERS if caller != "forged"])
def test_by_commands(house: House, caller: str, tmp_path: Path) -> None:
    """In this process: a command says no by its exit code, and lists show what the API shows."""
    gone = dict.fromkeys(("SLUICE_CONFIG", "XDG_CONFIG_HOME", "SLUICE_DEBUG"))
    home = {"HOME": str(tmp_path), "SLUICE_STATE_DIR": str(tmp_path / "state"), "COLUMNS": "200"}
    runner = CliRunner(env={**gone, **home, "SLUICE_URL": house.url, "SLUICE_TOKEN": house.shown.get(caller)})
    found, expected, said = {}, {}, {}
    for operation, asked in OPERATIONS.items():
        if not asked.cli:
            continue
        ran: Result = runner.invoke(main, [house.filled(word) for word in asked.cli], prog_name="sluice")
        found[operation] = house.told(operation, 200, ran.stdout) if ran.exit_code == 0 else str(ran.exit_code)
        told = answer(operation, caller)
        code = EXITS["2" if told.startswith("2") else told]
        expected[operation] = ("200-" if told.endswith("-") else "200") if code == 0 else str(code)
        said[operation] = ran.output
    assert found == expected, {name: said[name] for name in found if found[name] != expected[name]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=WITHIN * 1000)
        yield made
        made.close()


def sign_in(house: House, context: BrowserContext, who: str) -> None:
    """Through the provider's pages, as a person does."""
    view = context.new_page()
    view.goto(f"{house.url}/auth/login?to=/api/v1/me")
    view.fill("input[name=login]", subject(who))
    view.fill("input[name=password]", "any")
    view.get_by_role("button", name="Sign-in").click()
    view.get_by_role("button", name="Continue").click()
    view.wait_for_url(f"{house.url}/api/v1/me")
    assert json.loads(view.inner_text("body"))["name"] == who
    view.close()


def go(house: House, context: BrowserContext, operation: str, path: str) -> str:
    """What a browser is answered there; where it is asked for a password, it has none.

    Each in a page of its own: the browser's error page after a refusal may still be on its way when the next is opened.
    """
    view = context.new_page()
    try:
        went = view.goto(path)
        assert went is not None
        return house.told(operation, went.status, went.text())
    except PlaywrightError as error:
        if "ERR_INVALID_AUTH_CREDENTIALS" in error.message:
            return "401"
        raise
    finally:
        view.close()


@pytest.mark.parametrize("caller", CALLERS)
def test_in_a_browser(house: House, browser: Browser, caller: str) -> None:
    """Reading by going there; what changes something with the browser's cookies, as our own pages ask.

    Who is known is signed in; bad tokens are sent by the browser with everything that it asks for.
    """
    sent = house.headers(caller) if caller in NOBODY and caller in house.shown else {}
    context = browser.new_context(extra_http_headers=sent)
    context.set_default_timeout(WITHIN * 1000)
    if caller in KNOWN:
        sign_in(house, context, caller)
    elif caller == "forged":
        context.add_cookies(
            [
                {
                    "name": "__Host-sluice",
                    "value": "A" * 43,
                    "url": house.url.replace("http:", "https:"),
                    "secure": True,
                },
                {"name": "sluice-session", "value": "forged", "domain": "localhost", "path": f"/s/{house.session}/"},
            ]
        )
    found = {}
    for operation, asked in OPERATIONS.items():
        path = f"{house.url}{house.filled(asked.path)}"
        if asked.method == "GET":
            found[operation] = go(house, context, operation, path)
        else:
            content = house.filled(asked.body) if asked.body else None
            given = {**house.ours, **sent, "Content-Type": "application/json"}
            asked_for = context.request.post(path, data=content, headers=given)
            found[operation] = house.told(operation, asked_for.status, asked_for.text())
    if caller == "forged":
        assert "you are signed out" in context.request.get(f"{house.url}/api/v1/me").text(), "the cookie was shown"
    context.close()
    assert found == {operation: answer(operation, caller) for operation in OPERATIONS}
