"""TLS by certificate files: looked after while the service runs, so that a renewed certificate needs no restart."""

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import structlog
from cryptography import x509

from gateway.errors import SettingsInvalid
from gateway.settings import ServeSettings

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_SETTING, _KEY_SETTING = "serve.tls_certificate_file", "serve.tls_key_file"


class Certificate:
    """A certificate and its key, as they are on the disk now. SettingsInvalid says what is wrong with them.

    `context` stays the same object: each new connection is handed to the newest pair, those that are open keep theirs.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = certificate, key
        self._looked = self._marks()
        self._current = self._load()
        self.context = _context()
        self.context.sni_callback = self._hand_over

    @classmethod
    def of(cls, settings: ServeSettings) -> "Certificate | None":
        """What the settings name; None if the services speak plain HTTP."""
        certificate, key = settings.tls_certificate_file, settings.tls_key_file
        if certificate is None and key is None:
            return None
        if certificate is None or key is None:
            missing = _SETTING if certificate is None else _KEY_SETTING
            raise SettingsInvalid(f"{missing} is missing", hint="Certificate and key go together.")
        return cls(certificate, key)

    async def watch(self) -> None:
        """Look at the files every LOOK_SECONDS until cancelled. A pair that is no good changes nothing, and is told."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.refresh)

    def refresh(self) -> bool:
        """Take a changed pair into use; whether there was one."""
        marks = self._marks()
        if marks == self._looked:
            return False
        self._looked = marks
        try:
            self._current = self._load()
        except SettingsInvalid as error:
            log.warning("the new certificate is not used", error=error.message)
            return False
        log.info("certificate renewed", file=str(self._files[0]))
        return True

    def _hand_over(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        del name, context
        connection.context = self._current

    def _marks(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_mark, self._files))

    def _load(self) -> ssl.SSLContext:
        certificate, key = self._files
        try:
            ends = min(found.not_valid_after_utc for found in x509.load_pem_x509_certificates(certificate.read_bytes()))
        except OSError as error:
            raise SettingsInvalid(f"{_SETTING}: {certificate}: {error.strerror}") from error
        except ValueError as error:
            raise SettingsInvalid(
                f"{_SETTING}: {certificate}: there is no certificate in it", hint="It must be PEM, the server's first."
            ) from error
        context = _context()
        try:
            if key.stat().st_mode & 0o007:
                raise SettingsInvalid(
                    f"{_KEY_SETTING}: {key}: everybody may read the key", hint=f"chmod o= {key}; better make a new one."
                )
            context.load_cert_chain(certificate, key, password=_no_pass_phrase)
        except ssl.SSLError as error:
            mismatch = error.reason == "KEY_VALUES_MISMATCH"
            why = f"it does not belong to {certificate}" if mismatch else "there is no private key in it"
            raise SettingsInvalid(
                f"{_KEY_SETTING}: {key}: {why}", hint="It must be PEM, without a pass phrase."
            ) from error
        except OSError as error:
            raise SettingsInvalid(f"{_KEY_SETTING}: {key}: {error.strerror}") from error
        if ends < datetime.now(UTC):
            log.error("the certificate has ended: callers will refuse it", file=str(certificate), ended=str(ends))
        return context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _mark(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _no_pass_phrase() -> NoReturn:
    raise SettingsInvalid(
        f"{_KEY_SETTING}: the key has a pass phrase", hint="Without one: openssl pkey -in KEY -out NEW"
    )
