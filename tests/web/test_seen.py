"""Who asks: what proxies say is believed from those that the site names, and read from the end of the chain."""

import pytest
from pydantic import ValidationError

from gateway.errors import TooMany
from gateway.settings import ServeSettings
from gateway.web.door import Door, Failures
from gateway.web.seen import Proxies, Seen

TRUSTED = ("127.0.0.1", "10.0.0.0/8", "fd00::/8")


def x(**said: str) -> list[tuple[bytes, bytes]]:
    return [(f"x-forwarded-{name.rstrip('_')}".encode(), value.encode()) for name, value in said.items()]


def told(peer: str, headers: list[tuple[bytes, bytes]], header: str = "x-forwarded") -> Seen:
    proxies = Proxies(TRUSTED, "forwarded" if header == "forwarded" else "x-forwarded")
    return proxies.seen(peer, "http", "gw:8000", headers)


@pytest.mark.parametrize(
    ("peer", "headers", "address", "scheme", "host"),
    [
        ("192.0.2.9", x(for_="198.51.100.1", proto="https", host="evil"), "192.0.2.9", "http", "gw:8000"),
        ("127.0.0.1", [], "127.0.0.1", "http", "gw:8000"),
        ("127.0.0.1", x(for_="198.51.100.1", proto="https", host="hpc.edu"), "198.51.100.1", "https", "hpc.edu"),
        ("::ffff:127.0.0.1", x(for_="198.51.100.1"), "198.51.100.1", "http", "gw:8000"),
        ("127.0.0.1", x(for_="6.6.6.6, 198.51.100.1"), "198.51.100.1", "http", "gw:8000"),
        ("127.0.0.1", x(for_="6.6.6.6, 198.51.100.1, 10.1.2.3"), "198.51.100.1", "http", "gw:8000"),
        ("127.0.0.1", x(for_="10.1.2.3"), "10.1.2.3", "http", "gw:8000"),
        ("127.0.0.1", x(for_="198.51.100.1, unix"), "127.0.0.1", "http", "gw:8000"),
        ("127.0.0.1", x(for_="unix", proto="gopher", host="a b"), "127.0.0.1", "http", "gw:8000"),
        ("127.0.0.1", x(for_="[2001:db8::1]:99", proto="HTTPS"), "2001:db8::1", "https", "gw:8000"),
        ("127.0.0.1", x(for_="198.51.100.1, 10.0.0.1", proto="https, http"), "198.51.100.1", "https", "gw:8000"),
        ("127.0.0.1", x(proto="https"), "127.0.0.1", "https", "gw:8000"),
        ("127.0.0.1", [(b"forwarded", b"for=198.51.100.1")], "127.0.0.1", "http", "gw:8000"),
        ("unix", x(for_="198.51.100.1"), "unix", "http", "gw:8000"),
    ],
)
def test_x_forwarded(peer: str, headers: list[tuple[bytes, bytes]], address: str, scheme: str, host: str) -> None:
    seen = told(peer, headers)
    assert (seen.address, seen.scheme, seen.host) == (address, scheme, host)


@pytest.mark.parametrize(
    ("text", "address", "scheme", "host"),
    [
        ("for=198.51.100.1;proto=https;host=hpc.edu", "198.51.100.1", "https", "hpc.edu"),
        ('for=6.6.6.6, For="198.51.100.1:81";Proto=https', "198.51.100.1", "https", "gw:8000"),
        ('for="[2001:db8::7]:80"', "2001:db8::7", "http", "gw:8000"),
        ("for=198.51.100.1;proto=https, for=10.0.0.9;proto=http", "198.51.100.1", "https", "gw:8000"),
        ('for="a,b;for=1.1.1.1";host="x,y"', "127.0.0.1", "http", "gw:8000"),
        ("for=_hidden", "127.0.0.1", "http", "gw:8000"),
        ('for="6.6.6.6', "127.0.0.1", "http", "gw:8000"),
        ("", "127.0.0.1", "http", "gw:8000"),
    ],
)
def test_forwarded(text: str, address: str, scheme: str, host: str) -> None:
    seen = told("127.0.0.1", [(b"forwarded", text.encode()), *x(for_="6.6.6.6", proto="https")], "forwarded")
    assert (seen.address, seen.scheme, seen.host) == (address, scheme, host)


def test_nobody_is_believed_unless_a_site_says_so() -> None:
    seen = Door.of(ServeSettings()).proxies.seen("127.0.0.1", "http", "gw", x(for_="1.1.1.1", proto="https"))
    assert seen == Seen("127.0.0.1", "http", "gw")


@pytest.mark.parametrize(
    "wrong", [{"trusted_proxies": ["proxy.hpc.edu"]}, {"cors_origins": ["*"]}, {"cors_origins": ["https://a/b"]}]
)
def test_what_a_site_says_wrongly_is_told(wrong: dict[str, list[str]]) -> None:
    with pytest.raises(ValidationError, match=r"is no (address|origin)"):
        ServeSettings.model_validate(wrong)


def test_who_fails_too_often_waits_and_with_them_their_network_alone() -> None:
    failures = Failures(2)
    for _ in range(2):
        failures.check("2001:db8::1")
        failures.note("2001:db8::1")
    with pytest.raises(TooMany) as refused:
        failures.check("2001:db8::ffff")
    assert 1 <= int(refused.value.details["retry_after"]) <= 60
    failures.check("2001:db8:0:1::1")
    failures.check("192.0.2.1")
    Failures(0).check("2001:db8::1")
