"""Runs the packed agent as a real process, beside stand-ins for Apptainer and Slurm that do what little they must."""

import base64
import datetime as dt
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.model.announcement import Endpoint, parse
from gateway.model.jobspec import JobSpec
from gateway.render.bundle import agent_bundle
from tests.waiting import until

PROGRAM = Path(__file__).with_name("program.py")
DEADLINE = 120.0

#: Starts what follows the image, with the variables that the real one would set, on paths outside instead of inside.
APPTAINER = """#!{python}
import os, sys
arguments, mounts, at = sys.argv[1:], {{}}, 0
while not arguments[at].endswith(".sif"):
    if arguments[at] == "--mount":
        fields = dict(field.strip('"').split("=", 1) for field in arguments[at + 1].split(",") if "=" in field)
        mounts[fields["dst"]] = fields["src"]
    at += 1
def outside(text):
    for inside in ("/run/sluice", "/session"):
        if text == inside or text.startswith(inside + "/"):
            return mounts[inside] + text[len(inside):]
    return text
command = [outside(word) for word in arguments[at + 1:]]
prefix = "APPTAINERENV_"
inner = {{name[len(prefix):]: outside(value) for name, value in os.environ.items() if name.startswith(prefix)}}
os.chdir(mounts["/session"])
os.execvpe(command[0], command, {{"PATH": os.environ["PATH"], **inner}})
"""
SCONTROL = """#!/bin/sh
[ -e "$SLUICE_TEST_DOWN" ] && { echo "Unable to contact slurm controller"; exit 1; }
[ "$1" = show ] && { cat "$SLUICE_TEST_JOB"; exit 0; }
for word in "$@"; do case $word in Comment=*|Extra=*) echo "$word" >>"$SLUICE_TEST_COMMENTS"; esac; done
"""


T = TypeVar("T")


def wait_for(question: Callable[[], T | None], what: str, deadline: float = DEADLINE) -> T:
    """Ask until the answer is not None."""
    found = until(question, lambda answer: answer is not None, within=deadline, what=what)
    assert found is not None
    return found


class Authority:
    """A CA with one client certificate, in files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate("the gateway's CA", key, key, None)
        self.pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        client_key = ec.generate_private_key(ec.SECP256R1())
        client = _certificate("the gateway", client_key, key, certificate.subject)
        self.certificate = folder / "client.pem"
        self.key = folder / "client.key"
        self.certificate.write_bytes(client.public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(
            client_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def context(self, alpn: str | None = None) -> ssl.SSLContext:
        """What the gateway connects with: the server's certificate is pinned, not verified."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(self.certificate, self.key)
        if alpn:
            context.set_alpn_protocols([alpn])
        return context


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, issuer: x509.Name | None
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )


class RunningAgent:
    """One agent process and everything it leaves behind."""

    def __init__(self, folder: Path, authority: Authority, python: str = sys.executable) -> None:
        self.folder = folder
        self.authority = authority
        self.python = python
        self.session = folder / "session"
        self.tmp = Path(tempfile.mkdtemp(prefix="node-"))  # sockets lie below it, whose paths may have 108 bytes
        self.bin = folder / "bin"
        self.image = folder / "image.sif"
        self.comments_file = folder / "comments"
        self.down = folder / "down"
        self.job_file = folder / "job"
        self.bin.mkdir(parents=True)
        self.image.write_text("not read")
        self.program("apptainer", APPTAINER.format(python=sys.executable))
        self.program("scontrol", SCONTROL)
        self.process: subprocess.Popen[bytes]
        self.environment: dict[str, str] = {}

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def spec(self, **changes: Any) -> JobSpec:
        container = {"image": str(self.image), "command": ["python3", str(PROGRAM)]} | changes.pop("container", {})
        if container.get("script") is not None:
            container.pop("command")
        service = changes.pop("service", {})
        values: dict[str, Any] = {
            "session": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "kind": "batch" if service is None else "service",
            "directory": str(self.session),
            "container": container,
            "client_ca": self.authority.pem,
            "stop": {"grace": 4, "kill_after": 8},
        }
        if service is not None:
            values["service"] = {"probe": {"kind": "http"}, "probe_interval": 0.05} | service
        return JobSpec.model_validate(values | changes)

    def start(self, spec: JobSpec, **environment: str) -> "RunningAgent":
        program = self.folder / "agent.pyz"
        program.write_bytes(base64.b64decode(agent_bundle().text))
        file = self.folder / "spec.json"
        file.write_text(spec.model_dump_json())
        self.environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "TMPDIR": str(self.tmp),
            "SLURM_JOB_ID": "42",
            "SLUICE_ADVERTISE": "127.0.0.1",
            "SLUICE_TEST_COMMENTS": str(self.comments_file),
            "SLUICE_TEST_DOWN": str(self.down),
            "SLUICE_TEST_JOB": str(self.job_file),
        } | environment
        argv = [self.python, "-I", "-X", "utf8", str(program), str(file)]
        self.process = subprocess.Popen(argv, env=self.environment, stdin=subprocess.DEVNULL)
        return self

    # What it says.

    @property
    def comments(self) -> list[str]:
        """Every announcement but the one of terminals, which slow programs cause."""
        return [comment for comment in self.all_comments if " running " not in comment]

    @property
    def all_comments(self) -> list[str]:
        lines = self.comments_file.read_text().splitlines() if self.comments_file.exists() else []
        return [line.split("=", 1)[1] for line in lines]

    @property
    def log(self) -> str:
        path = self.session / "job-1.log"
        return path.read_text() if path.exists() else ""

    @property
    def output(self) -> str:
        path = self.session / "service-1.log"
        return path.read_text() if path.exists() else ""

    def announced(self, word: str = "ready") -> Endpoint:
        """Where it is, once it has said so."""

        def look() -> Endpoint | None:
            if self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.process.returncode}:\n{self.log}\n{self.output}")
            for comment in self.all_comments:
                if comment.startswith(f"sluice/1 {word} "):
                    place = parse(comment.replace(f"sluice/1 {word} ", "sluice/1 ready "))
                    assert isinstance(place, Endpoint)
                    return place
            return None

        return wait_for(look, f"announcement {word!r}")

    def printed(self, text: str) -> None:
        wait_for(lambda: True if text in self.output else None, f"{text!r} in the program's output")

    def said(self, text: str) -> None:
        wait_for(lambda: True if text in self.log else None, f"{text!r} in the agent's log")

    # What is done with it.

    def connect(self, alpn: str | None = None, word: str = "ready") -> ssl.SSLSocket:
        """A connection as the gateway makes it: the fingerprint is checked first of all."""
        place = self.announced(word)
        raw = socket.create_connection((place.host, place.port), DEADLINE)
        sock = self.authority.context(alpn).wrap_socket(raw)
        shown = sock.getpeercert(binary_form=True)
        assert shown is not None
        assert hashlib.sha256(shown).hexdigest() == place.fingerprint
        return sock

    def ask(self, op: str, word: str = "ready", **values: Any) -> dict[str, Any]:
        with self.connect("sluice-control", word) as sock:
            sock.sendall(json.dumps({"op": op, **values}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        return answer

    def get(self, path: str) -> tuple[int, bytes]:
        with self.connect() as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            with sock.makefile("rb") as stream:
                head, _, body = stream.read().partition(b"\r\n\r\n")
        return int(head[9:12]), body

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ends(self, deadline: float = DEADLINE) -> int:
        return self.process.wait(deadline)

    def descendants(self) -> list[int]:
        """Living processes that carry this job's session in their environment."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if os.fsencode(str(self.tmp)) in environment and int(entry.name) != self.process.pid:
                    found.append(int(entry.name))
        return found


@pytest.fixture(scope="session")
def authority_type() -> type[Authority]:
    return Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def agent(tmp_path: Path, authority: Authority) -> Iterator[RunningAgent]:
    running = RunningAgent(tmp_path / "node", authority)
    yield running
    end(running)


def end(running: RunningAgent) -> None:
    if hasattr(running, "process"):
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
        for pid in running.descendants():
            with suppress(ProcessLookupError):  # it may end by itself between the look and the kill
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(running.tmp, ignore_errors=True)
