"""The keys that secrets are sealed with before they reach the database: AES-256-GCM, and every value names its key.

The keys stand in a file that only its owner may read, one a line in base64, the current one first; it is made at the
first start. `SLUICE_SECRET_KEYS` in the environment (separated by commas) takes the place of the file.
"""

import base64
import binascii
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway import durable
from gateway.errors import Invalid, SettingsInvalid, Unavailable

VARIABLE = "SLUICE_SECRET_KEYS"
_BYTES = 32
_NONCE = 12
_FORMAT = "1"
_HEAD = "# Keys of Sluice's secrets, the current one first. Whoever has this file and the database reads them all.\n"
_Stamp = tuple[int, int, int]
_Keys = dict[str, AESGCM]


class Keyring:
    """Seals and opens texts. A file that was changed, by a rotation say, is read again at the next use."""

    def __init__(self, path: Path, *, given: str | None = None) -> None:
        """SettingsInvalid if there are no keys that could be used. `given` are keys as in the environment."""
        self._path = path
        self._given = _read(given.replace(",", "\n"), VARIABLE) if given is not None else None
        self._cached: tuple[_Stamp, _Keys] | None = None
        if self._given is None:
            self._make()
        self._keys()

    @classmethod
    def open(cls, state_dir: Path, key_file: Path | None, environ: Mapping[str, str]) -> "Keyring":
        """The keys that the settings name."""
        return cls(key_file or state_dir / "secrets.keys", given=environ.get(VARIABLE))

    @property
    def ids(self) -> tuple[str, ...]:
        """The names of the keys, the current one first. They tell nothing of the keys."""
        return tuple(self._keys())

    @property
    def current(self) -> str:
        return self.ids[0]

    @property
    def in_file(self) -> bool:
        """Whether the keys are ours to change."""
        return self._given is None

    def seal(self, text: str, about: str) -> str:
        """Encrypted with the current key, so that it opens for `about` only."""
        name, key = next(iter(self._keys().items()))
        nonce = secrets.token_bytes(_NONCE)
        sealed = nonce + key.encrypt(nonce, text.encode(), about.encode())
        return f"{_FORMAT}.{name}.{base64.urlsafe_b64encode(sealed).decode()}"

    def open_sealed(self, sealed: str, about: str) -> str:
        """Unavailable if the key is not there, or if somebody has changed or moved what was sealed."""
        form, _, rest = sealed.partition(".")
        name, _, text = rest.partition(".")
        key = self._keys().get(name)
        if form != _FORMAT or key is None:
            raise Unavailable(
                f"a secret was sealed with the key {name!r}, which this gateway has not got",
                hint=f"Put that key back below the others: {self._where}.",
            )
        try:
            data = base64.urlsafe_b64decode(text)
            return key.decrypt(data[:_NONCE], data[_NONCE:], about.encode()).decode()
        except (InvalidTag, ValueError):
            raise Unavailable(
                "a secret in the database is not as it was sealed", hint="Set it again: sluice secret set."
            ) from None

    def add(self) -> str:
        """Make another key the current one; the others go on opening what they sealed. Its name."""
        self._must_be_ours()
        with self._locked():
            fresh = _fresh()
            self._write([fresh, *self._lines()])
        return self.current

    def forget(self, unused: Collection[str]) -> None:
        """Take keys out of the file. Invalid for the current one."""
        self._must_be_ours()
        if self.current in unused:
            raise Invalid("the current key is in use")
        with self._locked():
            self._write([line for line in self._lines() if _name(base64.b64decode(line)) not in unused])

    @property
    def _where(self) -> str:
        return VARIABLE if self._given is not None else str(self._path)

    def _must_be_ours(self) -> None:
        if self._given is not None:
            raise Invalid(f"the keys come from {VARIABLE}", hint="Put a new one before the others there.")

    def _keys(self) -> _Keys:
        if self._given is not None:
            return self._given
        try:
            status = self._path.stat()
            stamp = status.st_mtime_ns, status.st_size, status.st_ino
            if self._cached is None or self._cached[0] != stamp:
                if stat.S_IMODE(status.st_mode) & 0o077:
                    raise SettingsInvalid(f"{self._path} can be read by others", hint=f"Run: chmod 600 {self._path}.")
                self._cached = stamp, _read(self._path.read_text(), str(self._path))
        except OSError as error:
            raise SettingsInvalid(f"{self._path}: {error.strerror}", hint="It holds the keys of the secrets.") from None
        return self._cached[1]

    def _make(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            if not self._path.exists():
                self._write([_fresh()])

    def _lines(self) -> list[str]:
        lines = (line.strip() for line in self._path.read_text().splitlines())
        return [line for line in lines if line and not line.startswith("#")]

    def _write(self, lines: list[str]) -> None:
        """Whole or not at all: who reads sees the file of before or of after."""
        durable.replace(self._path, (_HEAD + "".join(f"{line}\n" for line in lines)).encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time changes the keys. The kernel drops the lock of a process that dies."""
        lock = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def key_of(sealed: str) -> str:
    """The name of the key that something was sealed with."""
    return sealed.split(".")[1] if sealed.count(".") == 2 else ""  # noqa: PLR2004 - format, key, data


def _fresh() -> str:
    return base64.b64encode(secrets.token_bytes(_BYTES)).decode()


def _name(key: bytes) -> str:
    return hashlib.sha256(b"sluice key " + key).hexdigest()[:12]


def _read(text: str, where: str) -> _Keys:
    found: _Keys = {}
    for line in (line.strip() for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        try:
            key = base64.b64decode(line, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != _BYTES:
            raise SettingsInvalid(f"{where}: a key is {_BYTES} random bytes in base64", hint="openssl rand -base64 32")
        found[_name(key)] = AESGCM(key)
    if not found:
        raise SettingsInvalid(f"{where} holds no key", hint="openssl rand -base64 32")
    return found
