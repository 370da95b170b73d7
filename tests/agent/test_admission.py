"""Who may connect: the gateway's certificate, on TLS 1.3, and nobody else; and where the key lies."""

import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest


def refused(agent: Any, context: ssl.SSLContext) -> None:
    """The server's refusal of a client certificate arrives after the client's handshake in TLS 1.3."""
    place = agent.announced()

    def talk() -> bytes:
        with socket.create_connection((place.host, place.port), 60) as raw, context.wrap_socket(raw) as sock:
            sock.sendall(b"GET /about HTTP/1.1\r\nhost: x\r\n\r\n")
            return sock.recv(1)

    with pytest.raises((ssl.SSLError, ConnectionError)):  # a reset, if what is sent comes after the refusal
        talk()


def anonymous() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_only_the_gateways_certificate_is_admitted(agent: Any, authority: Any, tmp_path: Path) -> None:
    agent.start(agent.spec())
    refused(agent, anonymous())
    another = type(authority)(tmp_path / "another")
    refused(agent, another.context())
    refused(agent, another.context("sluice-control"))
    old = authority.context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    refused(agent, old)
    assert agent.get("/health")[0] == 200
    agent.said("a connection was refused")


def test_noise_on_the_port_harms_nobody(agent: Any) -> None:
    agent.start(agent.spec())
    place = agent.announced()
    with socket.create_connection((place.host, place.port), 60) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        raw.settimeout(60)
        while raw.recv(100):
            pass
    with socket.create_connection((place.host, place.port), 60):
        assert agent.get("/health")[0] == 200


def test_the_key_is_out_of_the_programs_reach_and_of_everybodys(agent: Any) -> None:
    agent.start(agent.spec())
    agent.announced()
    (runtime,) = agent.tmp.iterdir()
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert stat.S_IMODE((runtime / "key.pem").stat().st_mode) == 0o600
    assert [entry.name for entry in (runtime / "run").iterdir()] == ["service.sock"]
