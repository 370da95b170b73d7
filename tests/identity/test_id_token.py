"""What an ID token must say to belong to a sign-in; and how seldom a provider is asked for keys."""

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt

from gateway.errors import ProviderUnavailable, Unauthenticated
from gateway.identity.oidc import Oidc
from gateway.settings import OidcSettings
from tests.oidc import AUDIENCE, Provider, a_key, a_provider
from tests.services import answer, read_request

ACCESS = "an-access-token"
AT_HASH = base64.urlsafe_b64encode(hashlib.sha256(ACCESS.encode()).digest()[:16]).rstrip(b"=").decode()
GOOD: dict[str, Any] = {"aud": "sluice", "nonce": "n-1", "at_hash": AT_HASH}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with a_provider(tmp_path_factory.mktemp("provider"), {}, "http://localhost:1") as made:
        yield made


def client_of(issuer: str, folder: Path, **more: Any) -> Oidc:
    settings = OidcSettings.model_validate({"issuer": issuer, "client_id": "sluice", "audience": AUDIENCE, **more})
    return Oidc(settings, issuer, folder)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({}, None),
        ({"at_hash": None}, None),
        ({"azp": "sluice"}, None),
        ({"aud": ["sluice", "another"], "azp": "sluice"}, None),
        ({"nbf": int(time.time()) + 30}, None),
        ({"iat": int(time.time()) + 30}, None),
        ({"nonce": "n-2"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"at_hash": "A" * 22}, "at_hash"),
        ({"at_hash": 7}, "at_hash"),
        ({"azp": "another"}, "another client"),
        ({"aud": ["sluice", "another"]}, "another client"),
        ({"aud": "another"}, "aud"),
        ({"iss": "https://another.example"}, "iss"),
        ({"events": {}}, "logout token"),
    ],
)
async def test_an_id_token_belongs_to_the_sign_in(
    provider: Provider, tmp_path: Path, claims: dict[str, Any], why: str | None
) -> None:
    text = provider.token("s-1", **{**GOOD, **claims})
    asked = client_of(provider.issuer, tmp_path).id_token(text, nonce="n-1", access_token=ACCESS)
    if why is None:
        assert (await asked)["sub"] == "s-1"
    else:
        with pytest.raises(Unauthenticated, match=why):
            await asked


async def test_the_id_token_of_a_browser_is_no_key(provider: Provider, tmp_path: Path) -> None:
    """Without an audience of its own, access tokens are for the client as well."""
    oidc = client_of(provider.issuer, tmp_path, audience=None)
    assert (await oidc.verify(provider.token("s-1", aud="sluice"))).identity.subject == "s-1"
    with pytest.raises(Unauthenticated, match="ID token of a browser"):
        await oidc.verify(provider.token("s-1", **GOOD))


class Counted:
    """A provider's discovery and keys, and how often they were asked for."""

    def __init__(self) -> None:
        self.key, self.asked, self.away = a_key(), 0, False
        self.issuer = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await read_request(reader)
        assert asked is not None
        if asked.target.startswith("/.well-known/"):
            self.asked += 1
            doors = {name: f"{self.issuer}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
            body: dict[str, Any] = {"issuer": self.issuer, **doors}
        else:
            body = {"keys": [self.key.as_dict(private=False)]}
        writer.write(answer({}, "503 Service Unavailable") if self.away else answer(body))
        await writer.drain()
        writer.close()

    def token(self) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": "s-1", "aud": AUDIENCE, "iat": now, "exp": now + 300}
        return jwt.encode({"alg": "RS256", "kid": str(self.key.kid)}, claims, self.key)


@asynccontextmanager
async def counted() -> AsyncIterator[Counted]:
    made = Counted()
    server = await asyncio.start_server(made, "127.0.0.1", 0)
    async with server:
        made.issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made


async def taken(oidc: Oidc, text: str) -> bool:
    try:
        await oidc.verify(text)
    except (Unauthenticated, ProviderUnavailable):
        return False
    return True


async def test_tokens_with_unknown_keys_do_not_make_us_ask_and_ask(tmp_path: Path) -> None:
    async with counted() as place:
        oidc = client_of(place.issuer, tmp_path, keys_seconds=3600)
        assert await taken(oidc, place.token())
        for _ in range(2):
            place.key = a_key()
            assert not any(await asyncio.gather(*(taken(oidc, place.token()) for _ in range(10))))
        assert place.asked == 1


async def test_a_new_key_is_found_when_it_is_first_used_and_asked_for_once(tmp_path: Path) -> None:
    """After a start, the keys being those that were kept: then nobody was asked a moment ago."""
    async with counted() as place:
        assert await taken(client_of(place.issuer, tmp_path), place.token())
        place.key = a_key()
        oidc = client_of(place.issuer, tmp_path, keys_seconds=3600)
        assert all(await asyncio.gather(*(taken(oidc, place.token()) for _ in range(10))))
        assert place.asked == 2
        good = place.token()
        place.away, place.key = True, a_key()
        assert not await taken(oidc, place.token())
        assert await taken(oidc, good)
