"""The gateway's own certificates: a CA, and the short-lived client certificate that agents admit.

Every job script carries the CA's certificate (which is public); the agent in the job talks to nobody who does not
show a certificate that this CA signed. Keys never leave `<state_dir>/pki`, and only their owner may read them.
"""

import fcntl
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway import durable
from gateway.errors import SettingsInvalid

CA_LIFETIME = timedelta(days=3650)
CLIENT_LIFETIME = timedelta(hours=24)
RENEW_BEFORE = timedelta(hours=8)
_SKEW = timedelta(minutes=5)  # a compute node's clock may be a little behind ours


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Credentials:
    """The gateway's client certificate and key, in one file so that they are replaced together."""

    file: Path
    expires_at: datetime


class Pki:
    """The certificates in `<state_dir>/pki`: ca.pem and ca.key, and client.pem (certificate and key)."""

    def __init__(self, state_dir: Path, *, clock: Callable[[], datetime] = _now) -> None:
        self._dir = state_dir / "pki"
        self._clock = clock
        self._client: Credentials | None = None
        self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            if not (self._dir / "ca.pem").exists():
                self._make_ca()
        self.ca_pem = (self._dir / "ca.pem").read_text()
        self.client()

    def client(self) -> Credentials:
        """A client certificate with some life left; renewed when it runs out, by whichever service asks first."""
        if self._client is None or self._due(self._client.expires_at):
            with self._locked():
                self._client = self._read_client() or self._make_client()
        return self._client

    def _due(self, expires_at: datetime) -> bool:
        return self._clock() > expires_at - RENEW_BEFORE

    def _read_client(self) -> Credentials | None:
        """The certificate on disk, if it is of this CA and not about to expire."""
        path = self._dir / "client.pem"
        if not path.exists():
            return None
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        ca = x509.load_pem_x509_certificate(self.ca_pem.encode())
        if certificate.issuer != ca.subject or self._due(certificate.not_valid_after_utc):
            return None
        return Credentials(path, certificate.not_valid_after_utc)

    def _make_ca(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Sluice gateway {secrets.token_hex(4)}")])
        certificate = (
            self._builder(key.public_key(), key.public_key(), name, name, CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        self._write("ca.key", _pem(key))
        self._write("ca.pem", certificate.public_bytes(Encoding.PEM), mode=0o644)  # last: it says that both are there

    def _make_client(self) -> Credentials:
        ca = x509.load_pem_x509_certificate(self.ca_pem.encode())
        ca_key = load_pem_private_key((self._dir / "ca.key").read_bytes(), password=None)
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey) or ca_key.public_key() != ca.public_key():
            raise SettingsInvalid(
                f"{self._dir}: ca.key is not the key of ca.pem",
                hint=f"Remove {self._dir}: both are made again, and services that run now must be started again.",
            )
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sluice-gateway")])
        certificate = (
            self._builder(key.public_key(), ca_key.public_key(), name, ca.subject, CLIENT_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        path = self._write("client.pem", certificate.public_bytes(Encoding.PEM) + _pem(key))
        return Credentials(path, certificate.not_valid_after_utc)

    def _builder(
        self,
        key: ec.EllipticCurvePublicKey,
        issuer_key: ec.EllipticCurvePublicKey,
        name: x509.Name,
        issuer: x509.Name,
        life: timedelta,
    ) -> x509.CertificateBuilder:
        now = self._clock()
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + life)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        )

    def _write(self, name: str, data: bytes, *, mode: int = 0o600) -> Path:
        """Replace a file whole: a reader sees the old or the new one."""
        path = self._dir / name
        durable.replace(path, data, mode=mode)
        return path

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time makes certificates. The kernel drops the lock of a process that dies."""
        with (self._dir / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
