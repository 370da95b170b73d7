"""The gateway's certificates: private keys, a chain that verifies, renewal in time."""

import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.errors import SettingsInvalid
from gateway.identity.pki import CLIENT_LIFETIME, RENEW_BEFORE, Pki


def later(by: timedelta) -> Callable[[], datetime]:
    return lambda: datetime.now(UTC) + by


def test_keys_are_private_and_the_chain_verifies(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    for name in ("ca.key", "client.pem"):
        assert stat.S_IMODE((tmp_path / "pki" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700
    assert "PRIVATE" not in pki.ca_pem
    checked = subprocess.run(
        [
            *["openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile"],
            tmp_path / "pki/ca.pem",
            pki.client().file,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_the_client_certificate_is_good_for_nothing_else(tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(Pki(tmp_path).client().file.read_bytes())
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life <= CLIENT_LIFETIME + timedelta(minutes=10)


def test_a_second_start_keeps_both(tmp_path: Path) -> None:
    first, second = Pki(tmp_path), Pki(tmp_path)
    assert first.ca_pem == second.ca_pem
    assert first.client() == second.client()


def test_a_certificate_close_to_its_end_is_renewed_while_running_and_the_ca_stays(tmp_path: Path) -> None:
    moved = timedelta(0)
    pki = Pki(tmp_path, clock=lambda: datetime.now(UTC) + moved)
    first, before = pki.client(), (tmp_path / "pki/client.pem").read_bytes()
    assert pki.client() is first
    moved = CLIENT_LIFETIME - RENEW_BEFORE + timedelta(minutes=1)
    second = pki.client()
    assert second.expires_at > first.expires_at
    assert (tmp_path / "pki/client.pem").read_bytes() != before
    assert Pki(tmp_path, clock=later(moved)).ca_pem == pki.ca_pem


def test_an_expired_one_is_renewed_at_the_next_start(tmp_path: Path) -> None:
    first = Pki(tmp_path).client()
    second = Pki(tmp_path, clock=later(timedelta(days=30))).client()
    assert second.expires_at > first.expires_at + timedelta(days=29)


def test_services_that_start_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Pki(tmp_path), range(16)))
    assert len({pki.ca_pem for pki in made}) == 1
    assert len({pki.client().expires_at for pki in made}) == 1


def test_certificate_and_key_belong_together(tmp_path: Path) -> None:
    data = Pki(tmp_path).client().file.read_bytes()
    key = load_pem_private_key(data, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert x509.load_pem_x509_certificate(data).public_key() == key.public_key()


def test_a_foreign_ca_key_is_told(tmp_path: Path) -> None:
    Pki(tmp_path / "a")
    Pki(tmp_path / "b")
    (tmp_path / "a/pki/ca.key").write_bytes((tmp_path / "b/pki/ca.key").read_bytes())
    (tmp_path / "a/pki/client.pem").unlink()
    with pytest.raises(SettingsInvalid, match="not the key"):
        Pki(tmp_path / "a")
