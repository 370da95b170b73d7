"""A real OpenID provider of the tests' own: panva's oidc-provider under Node.js, installed once into a cache folder."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.ports import free_port

SOURCE = Path(__file__).parent / "provider"
AUDIENCE = "https://sluice.test"
WITHIN = 120


def installed() -> Path:
    """The folder in which the provider's packages are, as the lock file names them."""
    lock = (SOURCE / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice-tests"
    folder = cache / f"provider-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not (folder / ".whole").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCE / name, folder)
            done = subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            (folder / ".whole").touch()
        shutil.copy(SOURCE / "provider.mjs", folder)
    return folder


@dataclass
class Provider:
    """One provider on a port of its own. It may be ended and started again, with other keys."""

    folder: Path
    port: int
    accounts: dict[str, dict[str, Any]]
    clients: list[dict[str, Any]]
    lifetime: int = 600
    keys: list[RSAKey] = field(default_factory=list)
    process: "subprocess.Popen[str] | None" = None

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = installed()
        config = {
            "issuer": self.issuer,
            "port": self.port,
            "accounts": self.accounts,
            "clients": self.clients,
            "lifetime": self.lifetime,
            "jwks": {"keys": [key.as_dict(private=True) for key in self.keys]},
        }
        file = self.folder / "provider.json"
        file.write_text(json.dumps(config))
        log = (self.folder / "provider.log").open("a")
        with log:
            self.process = subprocess.Popen(
                ["node", "provider.mjs", str(file)], cwd=program, stdout=log, stderr=log, text=True
            )
        self._until_it_answers()

    def _until_it_answers(self) -> None:
        deadline = time.monotonic() + WITHIN
        while True:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "provider.log").read_text()
            assert time.monotonic() < deadline, "the provider does not answer"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(WITHIN)
            self.process = None

    def rotate(self) -> RSAKey:
        """Sign with a new key and publish it alone; the old one."""
        old = self.keys[0]
        self.stop()
        self.keys = [a_key()]
        self.start()
        return old

    def token(self, subject: str, *, key: RSAKey | None = None, **claims: Any) -> str:
        """An access token as the provider makes them, or with something about it that is wrong."""
        now = int(time.time())
        said = {"iss": self.issuer, "sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + 300, **claims}
        kept = {name: value for name, value in said.items() if value is not None}
        signer = key or self.keys[0]
        return jwt.encode({"alg": "RS256", "kid": str(signer.kid), "typ": "at+jwt"}, kept, signer)


def a_key() -> RSAKey:
    return RSAKey.generate_key(2048, parameters={"use": "sig", "alg": "RS256"}, auto_kid=True)


@contextlib.contextmanager
def a_provider(folder: Path, accounts: dict[str, dict[str, Any]], gateway: str, **more: Any) -> Iterator[Provider]:
    """A running one that knows the gateway at this address, its command line, and a service."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    clients: list[dict[str, Any]] = [
        {
            "client_id": "sluice",
            "client_secret": "of the gateway",
            "redirect_uris": [f"{gateway}/auth/callback"],
            "post_logout_redirect_uris": [f"{gateway}/auth/signed-out"],
            "backchannel_logout_uri": f"{gateway}/auth/backchannel",
            "backchannel_logout_session_required": True,
            "grant_types": ["authorization_code"],
        },
        {
            "client_id": "sluice-cli",
            "application_type": "native",
            "token_endpoint_auth_method": "none",
            "grant_types": ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"],
            "response_types": [],
            "redirect_uris": [],
        },
        {
            "client_id": "robot",
            "client_secret": "of the robot",
            "grant_types": ["client_credentials"],
            "response_types": [],
            "redirect_uris": [],
        },
    ]
    provider = Provider(folder, port, accounts, clients, keys=[a_key()], **more)
    try:
        provider.start()
        yield provider
    finally:
        provider.stop()
