"""The pinned handshake and the control channel, against real TLS servers on asyncio and uvloop."""

import asyncio
import hashlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.errors import EndpointUnavailable
from gateway.identity.pki import Pki
from gateway.model.announcement import Endpoint
from gateway.network.agents import CONTROL, AgentChannel, AgentPath, pinned_context

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
GOOD = {"ok": True, "phase": "ready", "in_flight": 2, "idle_seconds": 1.5, "requests": 7, "pid": 1}


def certificate(folder: Path, name: str) -> tuple[Path, str]:
    """A self-signed certificate (and key) as an agent makes it, by openssl; its file and fingerprint."""
    file = folder / f"{name}.pem"
    subprocess.run(
        [
            *[
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "1",
            ],
            *("-subj", f"/CN={name}", "-keyout", file, "-out", file.with_suffix(".crt")),
        ],
        check=True,
        capture_output=True,
    )
    pem = file.with_suffix(".crt").read_text()
    file.write_text(file.read_text() + pem)
    return file, hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


@asynccontextmanager
async def tls_server(file: Path, ca_pem: str, answer: Answer) -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(file)
    context.load_verify_locations(cadata=ca_pem)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([CONTROL])
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def status(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == CONTROL
    assert json.loads(await reader.readline()) == {"op": "status"}
    writer.write(json.dumps(GOOD).encode() + b"\n")
    await writer.drain()
    writer.close()


def channel_of(pki: Pki, timeout: float = 60) -> AgentChannel:
    return AgentChannel(AgentPath(lambda: pki.client().file), timeout=timeout)


def says(line: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(line)
        writer.close()

    return answer


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def run(loop: str, main: Coroutine[Any, Any, None]) -> None:
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_announced_certificate_is_accepted(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        pki = Pki(tmp_path)
        file, fingerprint = certificate(tmp_path, "agent")
        async with tls_server(file, pki.ca_pem, status) as port:
            channel = channel_of(pki)
            said = await channel.status(Endpoint(host="127.0.0.1", port=port, fingerprint=fingerprint))
        assert (said.phase, said.in_flight, said.idle_seconds, said.requests) == ("ready", 2, 1.5, 7)

    run(loop, main())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_another_certificate_is_refused_and_nothing_of_ours_reaches_it(tmp_path: Path, loop: str) -> None:
    received: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.close()

    async def main() -> None:
        pki = Pki(tmp_path)
        file, _ = certificate(tmp_path, "impostor")
        _, announced = certificate(tmp_path, "agent")
        async with tls_server(file, pki.ca_pem, listen) as port:
            endpoint = Endpoint(host="127.0.0.1", port=port, fingerprint=announced)
            with pytest.raises(EndpointUnavailable, match="TLS failed"):
                await channel_of(pki).status(endpoint)
            context = pinned_context(announced, pki.client().file)
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection("127.0.0.1", port, ssl=context)
        assert b"".join(received) == b""

    run(loop, main())


async def test_a_client_of_another_gateway_is_not_admitted(tmp_path: Path) -> None:
    pki, stranger = Pki(tmp_path / "ours"), Pki(tmp_path / "theirs")
    file, fingerprint = certificate(tmp_path, "agent")
    async with tls_server(file, pki.ca_pem, status) as port:
        with pytest.raises(EndpointUnavailable):
            await channel_of(stranger).status(Endpoint(host="127.0.0.1", port=port, fingerprint=fingerprint))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (says(b""), "closed the channel"),
        (says(b"what?\n"), "no JSON"),
        (says(b'{"ok": false, "error": "draining"}\n'), "refused: draining"),
        (says(b'{"ok": true}\n'), "cannot be understood"),
        (says(b"[]\n"), "refused"),
        (silent, "no answer within"),
    ],
)
async def test_a_bad_answer_is_an_endpoint_that_is_not_there(tmp_path: Path, answer: Answer, said: str) -> None:
    pki = Pki(tmp_path)
    file, fingerprint = certificate(tmp_path, "agent")
    async with tls_server(file, pki.ca_pem, answer) as port:
        with pytest.raises(EndpointUnavailable, match=said):
            await channel_of(pki, timeout=2 if answer is silent else 60).status(
                Endpoint(host="127.0.0.1", port=port, fingerprint=fingerprint)
            )


async def test_nobody_there(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    with pytest.raises(EndpointUnavailable, match="does not answer at 127"):
        await channel_of(pki).status(Endpoint(host="127.0.0.1", port=1, fingerprint="0" * 64))
