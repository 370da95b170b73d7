"""Signing in from a terminal: by a code that is confirmed in any browser, or as a service by its own secret."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict

from gateway.errors import NotFound, TimedOut, Unauthenticated, Unavailable
from gateway.model.auth import AuthView
from gateway.model.user import MeView
from gateway.sdk import credentials, defaults, trust, wire
from gateway.sdk.credentials import Stored

M = TypeVar("M", bound=BaseModel)
_DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


class Provider(BaseModel):
    """What discovery says of the identity provider, as far as it is used here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    issuer: str
    token_endpoint: str
    device_authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None


class Code(BaseModel):
    """What to show: an address, and a code to be typed or compared there. Times in seconds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None = None
    expires_in: float
    interval: float = 5


class Login:
    """One sign-in at one gateway."""

    def __init__(self, url: str, ca: trust.Ca = None) -> None:
        self.url = url.rstrip("/")
        local = defaults.is_local(url)
        self._http = httpx.Client(timeout=credentials.TIMEOUT, verify=trust.verify(ca), trust_env=not local)
        self.auth = self._gateway(AuthView, "GET", "/auth")
        if self.auth.issuer is None:
            raise NotFound(
                f"the gateway at {self.url} has no identity provider",
                hint="Use a token instead: export SLUICE_TOKEN=...; `sluice token create` makes one.",
            )
        self._provider = self._discover(self.auth.issuer)

    def close(self) -> None:
        self._http.close()

    def begin(self) -> Code:
        """Ask for a code."""
        endpoint = self._provider.device_authorization_endpoint
        if endpoint is None:
            raise Unavailable(f"the provider {self._provider.issuer} has no sign-in by code (device authorization)")
        scopes = dict.fromkeys([*self.auth.scopes, "offline_access"])
        form = {"client_id": self._client, "scope": " ".join(scopes), "prompt": "consent", **self._resource}
        return Code.model_validate(self._told(self._post(endpoint, form)))

    def wait(self, code: Code, pause: Callable[[float], None] = time.sleep) -> MeView:
        """Until somebody has confirmed it; then signed in, and kept. TimedOut, Unauthenticated."""
        deadline, interval = time.monotonic() + code.expires_in, code.interval
        form = {"grant_type": _DEVICE, "device_code": code.device_code, "client_id": self._client}
        while time.monotonic() < deadline:
            pause(interval)
            answer = self._post(self._provider.token_endpoint, form | self._resource)
            word = _json(answer).get("error")
            if word == "slow_down":
                interval += 5
            elif word != "authorization_pending":
                return self._keep(self._told(answer), grant="refresh_token")
        raise TimedOut("nobody confirmed the code in time", hint="Begin again: sluice login")

    def as_service(self, client_id: str, secret: str) -> MeView:
        """As a service that the provider knows (client credentials)."""
        form = {"grant_type": "client_credentials", "scope": " ".join(self.auth.scopes), **self._resource}
        answer = self._post(self._provider.token_endpoint, form, httpx.BasicAuth(client_id, secret))
        return self._keep(self._told(answer), grant="client_credentials", client_id=client_id, client_secret=secret)

    def _keep(self, told: Mapping[str, Any], **more: Any) -> MeView:
        stored = Stored.model_validate(
            {
                "bearer": credentials.bearer_of(told),
                "expires_at": time.time() + float(told.get("expires_in", 300)),
                "refresh_token": told.get("refresh_token"),
                "token_endpoint": self._provider.token_endpoint,
                "revocation_endpoint": self._provider.revocation_endpoint,
                "client_id": self._client,
                "scope": " ".join(self.auth.scopes),
                **self._resource,
                **more,
            }
        )
        if "id_token" in told:
            body = {"id_token": told["id_token"], "access_token": told.get("access_token")}
            self._gateway(MeView, "POST", "/auth/session", body)
        me = self._gateway(MeView, "GET", "/me", token=stored.bearer)
        credentials.put(self.url, stored)
        return me

    @property
    def _client(self) -> str:
        return self.auth.client_id or ""

    @property
    def _resource(self) -> dict[str, str]:
        """An audience that is no address cannot be asked for: the provider then gives it by itself."""
        audience = self.auth.audience
        return {"resource": audience} if audience is not None and "://" in audience else {}

    def _discover(self, issuer: str) -> Provider:
        try:
            answer = self._http.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            answer.raise_for_status()
            found = Provider.model_validate_json(answer.content)
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(
                f"the identity provider {issuer} cannot be asked: {error}", hint="Tokens that you have go on working."
            ) from error
        if found.issuer != issuer:
            raise Unauthenticated(f"the provider at {issuer} says that it is {found.issuer}")
        return found

    def _post(self, url: str, form: Mapping[str, str], auth: httpx.Auth | None = None) -> httpx.Response:
        try:
            return self._http.post(url, data=dict(form), auth=auth or httpx.Auth())
        except httpx.TransportError as error:
            raise Unavailable(f"the identity provider does not answer: {error}") from error

    def _told(self, answer: httpx.Response) -> dict[str, Any]:
        told = _json(answer)
        if answer.is_error or "error" in told:
            why = told.get("error_description") or told.get("error") or f"status {answer.status_code}"
            raise Unauthenticated(f"the provider refuses: {why}")
        return told

    def _gateway(self, model: type[M], method: str, path: str, body: Any = None, *, token: str | None = None) -> M:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        try:
            answer = self._http.request(method, f"{self.url}{wire.API}{path}", json=body, headers=headers)
        except httpx.TransportError as error:
            raise wire.unreachable(self.url, error) from error
        if answer.is_error:
            raise wire.problem(answer)
        return wire.read(model, answer)


def sign_out(url: str) -> bool:
    """Forget what was kept, and tell the provider so, if it listens; whether there was anything."""
    stored = credentials.load(url)
    if stored is None:
        return False
    credentials.put(url, None)
    if stored.revocation_endpoint is not None and stored.refresh_token is not None:
        form = {"token": stored.refresh_token, "client_id": stored.client_id}
        with contextlib.suppress(httpx.TransportError):
            httpx.post(stored.revocation_endpoint, data=form, timeout=credentials.TIMEOUT)
    return True


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
