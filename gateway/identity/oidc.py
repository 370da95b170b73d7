"""Tokens of an identity provider, checked; and the code of a sign-in, turned into one."""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError

from gateway.errors import ProviderUnavailable, Unauthenticated
from gateway.identity.discovery import TIMEOUT, Discovery, Metadata
from gateway.model.user import Identity
from gateway.settings import OidcSettings

LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
_HASHES = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}
Claims = Mapping[str, Any]


@dataclass(frozen=True)
class Verified:
    """What a provider's token says, its signature and claims being right. `until` is its `exp`, skew added."""

    identity: Identity
    until: datetime
    claims: Claims


class Oidc:
    """One provider. Who is known by its tokens is known by issuer and subject, and by nothing else in them."""

    def __init__(self, settings: OidcSettings, issuer: str, state_dir: Path) -> None:
        self.settings, self.issuer = settings, issuer
        self.discovery = Discovery(issuer, state_dir / "oidc.json", floor=settings.keys_seconds)

    @property
    def generation(self) -> int:
        """Rises when the provider's keys change: what was verified before must be verified anew."""
        return self.discovery.generation

    async def verify(self, text: str) -> Verified:
        """An access token for us. Unauthenticated with the reason."""
        claims = await self._claims(text, audience=self.settings.wanted_audience)
        if "events" in claims:
            raise Unauthenticated("this is a logout token, and lets nobody in")
        if "nonce" in claims:  # it stands in the address at which a browser signs out
            raise Unauthenticated("this is the ID token of a browser's sign-in, and lets nobody in")
        return self._verified(claims)

    async def id_token(self, text: str, *, nonce: str | None, access_token: str | None, cli: bool = False) -> Claims:
        """The claims of an ID token that was made for us. Unauthenticated if any of it is wrong."""
        client = (self.settings.cli_client_id or self.settings.client_id) if cli else self.settings.client_id
        claims = await self._claims(text, audience=client)
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if (several or "azp" in claims) and claims.get("azp") != client:
            raise Unauthenticated("the ID token was made for another client")
        if nonce is not None and not _same(claims.get("nonce"), nonce):
            raise Unauthenticated("the ID token does not belong to this sign-in (nonce)")
        if (
            access_token is not None
            and "at_hash" in claims
            and not _same(claims["at_hash"], _at_hash(text, access_token))
        ):
            raise Unauthenticated("the ID token does not belong to the access token (at_hash)")
        if "events" in claims:
            raise Unauthenticated("this is a logout token, and lets nobody in")
        return claims

    async def logout_token(self, text: str) -> Claims:
        """The claims of a back-channel logout. Unauthenticated if it is none for us."""
        claims = await self._claims(text, audience=self.settings.client_id, subject=False)
        if not isinstance(claims.get("events"), dict) or LOGOUT not in claims["events"] or "nonce" in claims:
            raise Unauthenticated("this is no logout token")
        if not (claims.get("sub") or claims.get("sid")):
            raise Unauthenticated("the logout token names nobody")
        return claims

    async def address(self, redirect: str, *, state: str, nonce: str, verifier: str) -> str:
        """Where a browser goes to sign in; nowhere while nobody would answer there. ProviderUnavailable."""
        metadata = await self.discovery.present()
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": redirect,
            "scope": " ".join(self.settings.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": _b64(hashlib.sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
        }
        return f"{metadata.authorization_endpoint}?{urlencode(asked)}"

    async def exchange(self, code: str, *, redirect: str, verifier: str, nonce: str) -> tuple[Claims, str]:
        """The claims of who signed in, and the ID token. ProviderUnavailable, Unauthenticated."""
        metadata = await self.discovery.metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "code_verifier": verifier,
            "client_id": self.settings.client_id,
        }
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT) as http:
                answer = await http.post(metadata.token_endpoint, data=form, auth=self._secret())
                told = answer.json()
                if answer.is_error or "id_token" not in told:
                    why = told.get("error_description") or told.get("error") or answer.status_code
                    raise Unauthenticated(f"the provider did not accept the sign-in: {why}")
                claims = await self.id_token(told["id_token"], nonce=nonce, access_token=told.get("access_token"))
                more = await self._userinfo(http, metadata, told.get("access_token"), claims)
        except (httpx.HTTPError, ValueError) as error:
            raise ProviderUnavailable(
                f"the identity provider {self.issuer} did not finish the sign-in: {error}"
            ) from error
        return {**more, **claims}, told["id_token"]

    async def userinfo(self, access_token: str, claims: Claims) -> Claims:
        """What the provider says more of somebody who holds this access token."""
        metadata = await self.discovery.metadata()
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT) as http:
                return {**await self._userinfo(http, metadata, access_token, claims), **claims}
        except (httpx.HTTPError, ValueError) as error:
            raise ProviderUnavailable(
                f"the identity provider {self.issuer} does not say who you are: {error}"
            ) from error

    async def _userinfo(
        self, http: httpx.AsyncClient, metadata: Metadata, access_token: str | None, claims: Claims
    ) -> Claims:
        if metadata.userinfo_endpoint is None or access_token is None:
            return {}
        answer = await http.get(metadata.userinfo_endpoint, headers={"Authorization": f"Bearer {access_token}"})
        if answer.is_error:  # an access token for us alone is not one for there
            return {}
        told = answer.json()
        if told.get("sub") != claims["sub"]:
            raise Unauthenticated("the provider speaks of two different people")
        return dict(told)

    async def _claims(self, text: str, *, audience: str, subject: bool = True) -> Claims:
        header = _header(text)
        if header.get("alg") not in self.settings.algorithms:
            raise Unauthenticated(f"a token signed with {header.get('alg')!r} is not accepted here")
        kid = header.get("kid")
        keys = await self.discovery.keys(kid if isinstance(kid, str) else None)
        registry = jwt.JWTClaimsRegistry(
            leeway=int(self.settings.skew_seconds),
            iss={"essential": True, "value": self.issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": subject},
        )
        try:
            token = jwt.decode(text, keys, algorithms=list(self.settings.algorithms))
            registry.validate(token.claims)
        except ExpiredTokenError as error:
            raise Unauthenticated("the token has expired", hint="Sign in again: sluice login.") from error
        except (JoseError, ValueError) as error:
            raise Unauthenticated(f"the token is not valid here: {error}") from error
        return token.claims

    def _verified(self, claims: Claims) -> Verified:
        until = datetime.fromtimestamp(float(claims["exp"]) + self.settings.skew_seconds, UTC)
        return Verified(Identity(issuer=self.issuer, subject=str(claims["sub"])), until, dict(claims))

    def _away(self, error: Exception) -> ProviderUnavailable:
        said = str(error) or type(error).__name__
        return ProviderUnavailable(f"the identity provider {self.issuer} did not finish the sign-in: {said}")

    def _secret(self) -> httpx.Auth:
        if self.settings.client_secret_file is None:
            return httpx.Auth()
        return httpx.BasicAuth(self.settings.client_id, self.settings.client_secret_file.read_text().strip())


def _header(text: str) -> dict[str, Any]:
    try:
        first = text.split(".", 1)[0]
        found = json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (binascii.Error, ValueError) as error:
        raise Unauthenticated("this token is not valid here") from error
    return found if isinstance(found, dict) else {}


def _same(claimed: object, right: str) -> bool:
    """In constant time, whatever the provider has put there."""
    return hmac.compare_digest(str(claimed).encode("utf-8", "surrogatepass"), right.encode())


def _at_hash(id_token: str, access_token: str) -> str:
    """The left half of the access token's hash, by the hash of the signature (EdDSA: that of Ed25519)."""
    make = _HASHES.get(str(_header(id_token).get("alg"))[-3:], hashlib.sha512)
    digest = make(access_token.encode()).digest()
    return _b64(digest[: len(digest) // 2])


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
