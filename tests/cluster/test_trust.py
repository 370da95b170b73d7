"""Another user on the node of a session tries every door with every key that is to be had; and what a wire shows."""

import json
import select
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.identity.pki import Pki
from gateway.model.announcement import Endpoint, parse
from tests.product import Product, a_client_service

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("images")]

OTHER = "bob"
SECRET_QUESTION = "what-nobody-on-the-wire-may-read"
IN_PLAIN = "this-was-sent-in-plain"
#: Bytes of a request: more than what else goes to and fro on a quiet wire.
MUCH = 100_000

#: Runs as the other user: asks the relay with each certificate, and tries the socket and the loopback ports.
INTRUDER = r"""
import json, os, socket, ssl, sys
asked = json.loads(sys.argv[1])
def told(attempt):
    try:
        return attempt()
    except OSError as error:
        return type(error).__name__
def relay(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(os.path.expanduser(certificate))
    with socket.create_connection((asked["host"], asked["port"]), 60) as raw, context.wrap_socket(raw) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return sock.recv(4096).decode("latin-1")[:12]
def plain():
    with socket.create_connection((asked["host"], asked["port"]), 60) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return raw.recv(4096).decode("latin-1")[:5]
def unix():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(asked["socket"])
        return "connected"
found = {name: told(lambda: relay(file)) for name, file in asked["certificates"].items()}
found["no TLS"] = told(plain)
found["socket"] = told(unix)
found["folder"] = told(lambda: os.listdir(asked["runtime"]) and "listed")
print(json.dumps(found))
"""

#: Runs as root on the node: which of these texts go over its wires while it stands there, and how many bytes.
WIRE = r"""
import json, socket, sys, time
texts, seen, size, until = sys.argv[1:], set(), 0, time.monotonic() + 200
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.settimeout(0.2)
print("listening", flush=True)
last = texts[-1].encode()
while last.decode() not in seen and time.monotonic() < until:
    try:
        packet = wire.recv(65536)
    except TimeoutError:
        continue
    size += len(packet)
    seen.update(text for text in texts if text.encode() in packet)
print(json.dumps({"seen": sorted(seen), "size": size}))
"""

#: A key and a certificate as each job makes them for itself.
OWN = """umask 077; cd "$(mktemp -d)" && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -sha256 -days 3650 -subj /CN=another -keyout key.pem -out cert.pem 2>log || cat log >&2
cat cert.pem key.pem; rm -r "$PWD" """

#: As the owner: on which TCP ports the programs of the job with this runtime directory listen, and how many they are.
LISTENING = r"""
import json, os, sys
mark, sockets, programs = ("SLUICE_RUNTIME=" + sys.argv[1]).encode(), set(), 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if mark not in open("/proc/%s/environ" % pid, "rb").read().split(b"\0"):
            continue
        programs += 1
        for fd in os.listdir("/proc/%s/fd" % pid):
            sockets.add(os.readlink("/proc/%s/fd/%s" % (pid, fd)))
    except OSError:
        continue
ports = []
for table in ("/proc/net/tcp", "/proc/net/tcp6"):
    for line in open(table).readlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and "socket:[%s]" % fields[9] in sockets:
            ports.append(int(fields[1].rsplit(":", 1)[1], 16))
print(json.dumps({"programs": programs, "ports": ports}))
"""


@dataclass
class Guarded:
    """A model server of alice's on a node."""

    product: Product
    node: str
    endpoint: Endpoint
    runtime: str

    def run(self, argv: list[str], user: str | None = None, given: str = "") -> str:
        return self.product.cluster.exec(self.node, argv, user=user, input=given).stdout


@pytest.fixture(scope="module")
def guarded(product: Product, images: None) -> Iterator[Guarded]:
    del images
    done = product.sluice("launch", "llama-cpp", "--name", "guarded", "--wait", within=400)
    assert done.returncode == 0, done.stderr
    told = product.json("show", "guarded")["job"]
    asked = ["squeue", "--noheader", f"--jobs={told['job_id']}", "--format=%k"]
    endpoint = parse(product.cluster.exec("login", asked, user=OTHER).stdout)  # anybody may read it
    assert isinstance(endpoint, Endpoint)
    runtime = product.sluice("exec", "guarded", "--", "sh", "-c", "echo $SLUICE_RUNTIME").stdout.strip()
    yield Guarded(product, told["nodes"], endpoint, runtime)
    product.sluice("stop", "guarded", "--wait")


def test_another_user_of_the_node_is_refused_at_every_door(guarded: Guarded, tmp_path: Path) -> None:
    ours = guarded.product.log.parent / "state" / "pki"
    foreign, stale = Pki(tmp_path / "foreign"), tmp_path / "stale"
    shutil.copytree(ours, stale / "pki")
    (stale / "pki" / "client.pem").unlink()
    expired = Pki(stale, clock=lambda: datetime.now(UTC) - timedelta(days=60)).client()
    certificates = {
        "another gateway's": foreign.client().file.read_text(),
        "an expired one of ours": expired.file.read_text(),
        "another job's": guarded.run(["sh", "-c", OWN], OTHER),
        "this job's own": guarded.run(["cat", f"{guarded.runtime}/cert.pem", f"{guarded.runtime}/key.pem"], "alice"),
        "ours, if it were stolen": (ours / "client.pem").read_text(),
    }
    asked: dict[str, Any] = {
        "host": guarded.endpoint.host,
        "port": guarded.endpoint.port,
        "runtime": guarded.runtime,
        "socket": f"{guarded.runtime}/run/service.sock",
        "certificates": {"none": ""},
    }
    for number, (name, text) in enumerate(certificates.items()):
        file = f"intruder-{number}.pem"
        guarded.run(["sh", "-c", f"umask 077; cat > ~/{file}"], OTHER, text)
        asked["certificates"][name] = f"~/{file}"
    found = json.loads(guarded.run(["python3", "-c", INTRUDER, json.dumps(asked)], OTHER))
    guarded.run(["sh", "-c", "rm -f ~/intruder-*.pem"], OTHER)
    assert found.pop("ours, if it were stolen") == "HTTP/1.1 200", "the doors are where they were tried"
    assert found.pop("socket") == "PermissionError"
    assert found.pop("folder") == "PermissionError"
    assert found.pop("no TLS") in {"", "ConnectionResetError", "\x15\x03\x03\x00\x02"}, "an alert, and no answer"
    assert set(found) == {"none", "another gateway's", "an expired one of ours", "another job's", "this job's own"}
    assert set(found.values()) <= {"SSLError", "ConnectionResetError", "BrokenPipeError", "SSLEOFError"}, found


def test_the_service_has_no_port_that_anybody_could_connect_to(guarded: Guarded) -> None:
    found = json.loads(guarded.run(["python3", "-c", LISTENING, guarded.runtime], "alice"))
    assert found["programs"] > 0
    assert found["ports"] == []


@contextmanager
def captured(product: Product, host: str, port: int) -> Iterator[Callable[[], Any]]:
    """What goes over this host's wires meanwhile: ask at the end, and a text goes in plain to this port of it."""
    texts = [SECRET_QUESTION, "chat/completions", "assistant", IN_PLAIN]
    argv = product.cluster.exec_argv(host, ["python3", "-c", WIRE, *texts], None)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as wire:
        assert wire.stdout is not None
        lines = wire.stdout
        assert lines.readline() == "listening\n"

        def told() -> Any:
            while not select.select([lines], [], [], 1)[0]:  # a burst may be too much for who captures: send it again
                with socket.create_connection((product.cluster.addresses[host], port), 60) as plain:
                    plain.sendall(IN_PLAIN.encode())
            return json.loads(lines.readline())

        yield told


@pytest.mark.parametrize("way", ["direct", "ssh"])
def test_a_captured_packet_shows_no_plain_text(guarded: Guarded, way: str, tmp_path: Path) -> None:
    product = guarded.product
    question: dict[str, Any] = {
        "model": "guarded",
        "messages": [{"role": "user", "content": SECRET_QUESTION}],
        "max_tokens": 5,
    }
    question["metadata"] = {"weight": "x" * MUCH}
    with ExitStack() as stack:
        address = stack.enter_context(a_client_service(product, way, tmp_path))
        on_node = stack.enter_context(captured(product, guarded.node, guarded.endpoint.port))
        on_login = stack.enter_context(captured(product, "login", 22))
        token = {"Authorization": f"Bearer {product.environment['SLUICE_TOKEN']}"}
        answer = httpx.post(f"{address}/v1/chat/completions", json=question, headers=token, timeout=120)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["role"] == "assistant"
        told = {"node": on_node(), "login": on_login()}
    assert [found["seen"] for found in told.values()] == [[IN_PLAIN], [IN_PLAIN]], "and what is plain is seen"
    assert told["node"]["size"] > MUCH
    assert (told["login"]["size"] > MUCH) == (way == "ssh"), "it goes the way that is asked for"
