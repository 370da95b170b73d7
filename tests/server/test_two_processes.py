"""Two real server processes before one PostgreSQL: what is taken back at one of them is taken back at the other."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from gateway.identity.local import load
from tests.postgresql import Server

WITHIN = 120
EXPIRES = 20
"""Seconds for which a short token is good: the stream that it opens has to have begun by then."""


@contextmanager
def a_process(config: Path) -> Iterator[str]:
    """A process that serves all; its address."""
    environ = {**os.environ, "SLUICE_CONFIG": str(config)}
    command = [sys.executable, "-m", "gateway.cli.main", "serve", "all", "--port", "0"]
    with (
        (config.parent / "log").open("ab") as log,
        subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stderr is not None
            for line in process.stderr:
                log.write(line.encode())
                if found := re.search(r'"port": (\d+).*"event": "serving"', line):
                    yield f"http://127.0.0.1:{found[1]}"
                    break
            else:
                pytest.fail(f"it did not start: {(config.parent / 'log').read_text()}")
        finally:
            process.kill()


@pytest.fixture(scope="module")
def place(postgresql: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, dict[str, str]]]:
    """The addresses of the two, and what an administrator shows."""
    folder = tmp_path_factory.mktemp("two")
    config = folder / "sluice.toml"
    config.write_text(
        f'state_dir = "{folder}/state"\ndatabase_url = "{postgresql.fresh()}"\n'
        f'[clusters.c]\nunix_user = "nobody"\nsession_root = "{folder}/sessions"\n'
    )
    with ExitStack() as stack:
        one = stack.enter_context(a_process(config))
        other = stack.enter_context(a_process(config))
        yield one, other, {"Authorization": f"Bearer {load(folder / 'state')}"}


def a_token(url: str, admin: dict[str, str], **more: object) -> tuple[str, dict[str, str]]:
    made = httpx.post(f"{url}/api/v1/tokens", headers=admin, json={"name": "t", **more}, timeout=WITHIN)
    assert made.status_code == 201, made.text
    return made.json()["id"], {"Authorization": f"Bearer {made.json()['token']}"}


def until_ended(url: str, auth: dict[str, str], begun: threading.Event) -> None:
    """A stream that begins, and ends because its reader may not read on."""
    with httpx.stream("GET", f"{url}/api/v1/events", headers=auth, timeout=WITHIN) as answer:
        assert answer.status_code == 200
        for _ in answer.iter_lines():
            begun.set()


def status(url: str, auth: dict[str, str]) -> int:
    return httpx.get(f"{url}/v1/models", headers=auth, timeout=WITHIN).status_code


def test_a_token_that_is_revoked_at_one_is_refused_by_the_other_at_once(
    place: tuple[str, str, dict[str, str]],
) -> None:
    one, other, admin = place
    token, auth = a_token(one, admin)
    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(until_ended, other, auth, begun)
        assert [status(url, auth) for url in (one, other)] == [200, 200]
        assert begun.wait(WITHIN)
        assert httpx.delete(f"{one}/api/v1/tokens/{token}", headers=admin, timeout=WITHIN).status_code == 200
        assert [status(url, auth) for url in (other, one)] == [401, 401], "as soon as the answer is there"
        going.result(WITHIN)


def test_a_stream_ends_when_its_token_does(place: tuple[str, str, dict[str, str]]) -> None:
    one, other, admin = place
    _, auth = a_token(one, admin, days=EXPIRES / 86400)
    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(until_ended, other, auth, begun)
        going.result(WITHIN)
    assert begun.is_set()
    assert [status(url, auth) for url in (one, other)] == [401, 401]


def test_who_is_removed_at_one_is_out_at_the_other(place: tuple[str, str, dict[str, str]]) -> None:
    one, other, admin = place
    for path, body in (
        ("projects", {"name": "physics"}),
        ("users", {"name": "bot", "kind": "service", "project": "physics"}),
    ):
        made = httpx.post(f"{one}/api/v1/{path}", headers=admin, json=body, timeout=WITHIN)
        assert made.status_code == 201, made.text
    _, auth = a_token(one, admin, user="bot")
    assert [status(url, auth) for url in (one, other)] == [200, 200]
    assert httpx.delete(f"{one}/api/v1/users/bot", headers=admin, timeout=WITHIN).status_code == 200
    assert [status(url, auth) for url in (other, one)] == [401, 401]
