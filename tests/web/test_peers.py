"""Known by Unix identity: a process of another user connects, and the kernel says whose it is."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.core import users
from gateway.errors import SettingsInvalid
from gateway.identity.opening import open_callers
from gateway.model.principal import LOCAL_ADMIN
from gateway.model.user import UnixAccount, UserRequest
from gateway.sdk import AsyncSluice
from gateway.server.app import part
from gateway.store import users as store
from gateway.web.app import Web
from gateway.web.peers import listen_unix
from gateway.web.serving import running
from tests.services import Site, a_site

GAMES, ROOT_LIKE = 5, 1
PROGRAM = """
import http.client, json, socket, sys
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(sys.argv[1])
connection.request("GET", "/api/v1/me", headers=json.loads(sys.argv[2]))
answer = connection.getresponse()
print(json.dumps([answer.status, json.loads(answer.read())]))
"""


@dataclass
class Node:
    """A login node with a gateway's socket."""

    site: Site
    socket: Path
    url: str

    async def ask(self, uid: int, **headers: str) -> tuple[int, dict[str, Any]]:
        """As a process with this uid."""
        argv = ["setpriv", f"--reuid={uid}", "--clear-groups", sys.executable, "-I", "-c", PROGRAM]
        done = await asyncio.to_thread(
            subprocess.run, [*argv, str(self.socket), json.dumps(headers)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        status, body = json.loads(done.stdout)
        return status, body


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-peers-")))
        folder.chmod(0o755)  # pytest's own folders are root's alone
        path = folder / "gateway.sock"
        site = await stack.enter_async_context(a_site(tmp_path, identity={"uid_floor": 3, "socket": str(path)}))
        web = Web([part(site.gateway)], open_callers(site.gateway))
        url = await stack.enter_async_context(running(web, listen_unix(path)))
        yield Node(site, path, url)


async def test_a_process_is_known_by_its_user_and_needs_no_token(node: Node) -> None:
    status, told = await node.ask(GAMES)
    assert (status, "nobody has let you in yet" in told["detail"]) == (403, True)
    [waiting] = await users.list_users(node.site.gateway, LOCAL_ADMIN, state="pending")
    assert (waiting.name, waiting.unix) == ("games", (UnixAccount(cluster="c", name="games", uid=GAMES),))
    await users.change(node.site.gateway, LOCAL_ADMIN, "games", UserRequest(state="active"))
    status, told = await node.ask(GAMES)
    assert (status, told["name"], told["origin"], told["unix"]) == (200, "games", "socket", {"c": "games"})


async def test_system_users_are_refused(node: Node) -> None:
    status, told = await node.ask(ROOT_LIKE)
    assert (status, told["code"]) == (403, "forbidden")
    assert await users.list_users(node.site.gateway, LOCAL_ADMIN, state="pending") == []


async def test_a_uid_that_was_given_to_somebody_else_is_noticed(node: Node) -> None:
    accounts = (UnixAccount(cluster="c", name="games", uid=4711),)
    await node.ask(GAMES)
    await users.change(node.site.gateway, LOCAL_ADMIN, "games", UserRequest(state="active"))
    user_id = await node.site.gateway.db.read(store.id_of, "games")
    await node.site.gateway.db.write(store.set_unix, user_id or "", accounts)
    await users.settled()
    status, told = await node.ask(GAMES)
    assert (status, "another one than it was" in told["detail"]) == (403, True)
    assert told["policy"] == "fixed-unix-same"
    assert told["hint"].startswith("Allowed: ")


async def test_a_token_counts_more_than_the_user_and_a_wrong_one_is_wrong(node: Node) -> None:
    status, told = await node.ask(GAMES, Authorization=f"Bearer {node.site.token}")
    assert (status, told["name"]) == (200, "admin")
    assert (await node.ask(GAMES, Authorization="Bearer wrong"))[0] == 401


async def test_who_runs_the_gateway_is_its_administrator_and_the_sdk_uses_the_socket(node: Node) -> None:
    async with AsyncSluice(f"unix:{node.socket}") as sluice:
        me = await sluice.me()
        assert (me.name, me.admin, me.origin) == ("admin", True, "socket")


async def test_a_dead_socket_is_taken_over_and_a_live_one_is_not(node: Node, tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="cannot listen"):
        listen_unix(node.socket)
    left = tmp_path / "left.sock"
    listen_unix(left).close()
    listen_unix(left).close()
