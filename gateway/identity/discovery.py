"""An identity provider by discovery: where its doors are and which keys it signs with, kept over its absence."""

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from pydantic import BaseModel, ConfigDict, ValidationError

from gateway import durable
from gateway.errors import ProviderUnavailable, Unauthenticated

log = structlog.get_logger(__name__)

TIMEOUT = 10.0
OLD = 600.0
"""Seconds after which keys are asked for again though none is missing: one that was taken back must not live on."""


class Metadata(BaseModel):
    """What discovery says, as far as it is used here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    end_session_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    authorization_response_iss_parameter_supported: bool = False


class Discovery:
    """Metadata and keys, kept in `file`, so that a restart while the provider is away loses nothing.

    They are asked for when first needed, when they are old, and when an unknown key turns up: then not more often than
    every `floor` seconds.
    """

    def __init__(self, issuer: str, file: Path, *, floor: float) -> None:
        self._issuer, self._file, self._floor = issuer, file, floor
        self._metadata: Metadata | None = None
        self._keys: KeySet | None = None
        self._kids: frozenset[str] = frozenset()
        self._asked = self._answered = float("-inf")
        self._asking = asyncio.Lock()
        self._again: asyncio.Task[None] | None = None
        self._why = ""
        self.generation = 0

    async def metadata(self) -> Metadata:
        """ProviderUnavailable if it was never had and cannot be."""
        await self._need()
        if self._metadata is None:
            raise self._away()
        return self._metadata

    async def present(self) -> Metadata:
        """The same, of a provider that answers now, or did less than `floor` seconds ago. ProviderUnavailable."""
        if not await self._refresh():
            raise self._away()
        return await self.metadata()

    async def keys(self, kid: str | None) -> KeySet:
        """Keys among which is this one. Unauthenticated if the provider has it not."""
        await self._need()
        if self._keys is None:
            raise self._away()
        if kid is not None and kid not in self._kids:
            answered = await self._refresh()
            if kid not in self._kids:
                if not answered and self._why:
                    raise self._away()
                raise Unauthenticated("the token is signed with a key that the provider does not (or no longer) have")
        elif time.monotonic() - self._answered > OLD and (self._again is None or self._again.done()):
            self._again = asyncio.create_task(self._quietly())
        return self._keys

    async def _need(self) -> None:
        if self._keys is None and not self._load():
            await self._refresh()

    async def _quietly(self) -> None:
        await self._refresh()

    async def _refresh(self) -> bool:
        """Ask the provider, unless somebody did less than `floor` seconds ago; whether its last answer was good."""
        began = time.monotonic()
        async with self._asking:
            if self._asked > began - self._floor:
                return not self._why
            self._asked = time.monotonic()
            try:
                async with httpx.AsyncClient(timeout=TIMEOUT) as http:
                    told = await _get(http, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
                    metadata = self._read(told)
                    keys = await _get(http, metadata.jwks_uri)
                self._take(metadata, keys)
            except (httpx.HTTPError, ValueError, ValidationError, JoseError) as error:
                self._why = str(error) or type(error).__name__
                log.warning("identity provider unavailable", issuer=self._issuer, error=self._why)
                return False
            self._why, self._answered = "", time.monotonic()
            await asyncio.to_thread(self._save, told, keys)
            return True

    def _read(self, told: Any) -> Metadata:
        """ValueError if it speaks of another issuer: its keys would be another's."""
        metadata = Metadata.model_validate(told)
        if metadata.issuer != self._issuer:
            raise ValueError(f"it says that it is {metadata.issuer!r}")
        return metadata

    def _take(self, metadata: Metadata, keys: Mapping[str, Any]) -> None:
        """Signing keys alone, and none that is symmetric."""
        kinds = {"RSA", "EC", "OKP"}
        good = [key for key in keys.get("keys", ()) if key.get("use", "sig") == "sig" and key.get("kty") in kinds]
        if not good:
            raise ValueError("it publishes no keys")
        kids = frozenset(str(key["kid"]) for key in good if "kid" in key)
        if kids != self._kids:
            self.generation += 1  # also when one was only added: verifying anew costs little
        self._metadata, self._keys, self._kids = metadata, KeySet.import_key_set({"keys": good}), kids

    def _save(self, metadata: Any, keys: Any) -> None:
        try:
            durable.replace(self._file, json.dumps({"metadata": metadata, "keys": keys}).encode())
        except OSError as error:
            log.warning("the provider's keys are not kept", file=str(self._file), error=error.strerror)

    def _load(self) -> bool:
        """What was kept by an earlier process; it is asked for anew beside."""
        try:
            kept = json.loads(self._file.read_text())
            self._take(self._read(kept["metadata"]), kept["keys"])
        except (OSError, ValueError, KeyError, JoseError):
            return False
        return True

    def _away(self) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"the identity provider {self._issuer} cannot be asked: {self._why or 'it was asked a moment ago'}",
            hint="Who has signed in goes on working; signing in must wait for it.",
        )


async def _get(http: httpx.AsyncClient, url: str) -> Any:
    answer = await http.get(url, headers={"Accept": "application/json"})
    answer.raise_for_status()
    return answer.json()
