"""Renewing a token beside a provider that is away, busy, or has ended the sign-in."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from gateway.errors import Unauthenticated
from gateway.sdk import credentials
from gateway.sdk.credentials import Renewing, Stored
from tests.services import answer, read_request

GOOD = answer({"access_token": "a.b.new", "expires_in": 300, "refresh_token": "r2"})


class Place:
    """A gateway that takes every token, and a provider's token endpoint, in one."""

    def __init__(self) -> None:
        self.provider = GOOD
        self.shown: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await read_request(reader)
        assert asked is not None
        if asked.target == "/me":
            self.shown.append(asked.headers["authorization"])
        writer.write(self.provider if asked.target == "/token" else answer({}))
        await writer.drain()
        writer.close()


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Place, str]]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    made = Place()
    server = await asyncio.start_server(made, "127.0.0.1", 0)
    async with server:
        yield made, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def signed_in(url: str) -> Renewing:
    """By a token that is near its end."""
    stored = Stored(
        bearer="a.b.old",
        expires_at=time.time() + credentials.EARLY / 2,
        refresh_token="r1",
        token_endpoint=f"{url}/token",
        client_id="cli",
    )
    credentials.save(url, stored)
    return Renewing(url, stored)


def test_sign_ins_at_many_gateways_at_once_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    urls = [f"https://gateway-{number}.example.org" for number in range(64)]
    stored = Stored(bearer="a.b.c", expires_at=0, token_endpoint="https://idp.example.org/token", client_id="cli")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda url: credentials.put(url, stored), urls))
    assert [url for url in urls if credentials.load(url) is None] == []


@pytest.mark.parametrize("status", ["503 Service Unavailable", "502 Bad Gateway", "429 Too Many Requests"])
async def test_while_the_provider_is_away_the_token_goes_on(place: tuple[Place, str], status: str) -> None:
    made, url = place
    made.provider = answer({"error": "temporarily_unavailable"}, status)
    async with httpx.AsyncClient(auth=signed_in(url), timeout=60) as http:
        assert (await http.get(f"{url}/me")).is_success
        made.provider = GOOD
        assert (await http.get(f"{url}/me")).is_success
    assert made.shown == ["Bearer a.b.old", "Bearer a.b.new"]
    kept = credentials.load(url)
    assert kept is not None
    assert (kept.bearer, kept.refresh_token) == ("a.b.new", "r2")


async def test_who_was_signed_out_there_is_told_so(place: tuple[Place, str]) -> None:
    made, url = place
    made.provider = answer({"error": "invalid_grant"}, "400 Bad Request")
    async with httpx.AsyncClient(auth=signed_in(url), timeout=60) as http:
        with pytest.raises(Unauthenticated, match="signed out: invalid_grant"):
            await http.get(f"{url}/me")
    assert made.shown == []
