"""What tests of the HTTP services share: a gateway on real parts before the in-memory Slurm, and nodes with services.

A node is a relay as an agent runs it: mutual TLS, a pinned certificate, a control channel, and behind it a small
HTTP service of the test's own.
"""

import asyncio
import hashlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.agent.certificate import MUX
from gateway.core import sessions
from gateway.core.context import Cluster, Gateway
from gateway.core.policies import Policies
from gateway.core.recipes import Catalogue
from gateway.core.reconcile import Reconciler
from gateway.identity.keyring import Keyring
from gateway.identity.local import load_or_create
from gateway.identity.pki import Pki
from gateway.model.announcement import Endpoint
from gateway.model.api import SessionRequest
from gateway.model.image import Image
from gateway.model.principal import LOCAL_ADMIN
from gateway.model.session import Phase, Session
from gateway.network.agents import CONTROL, AgentChannel, AgentPath
from gateway.network.way import Way
from gateway.settings import Settings
from gateway.slurm.fake import FakeSlurm
from gateway.slurm.mounted import MountedFiles
from gateway.store import images
from gateway.store.database import Database
from gateway.web.app import background
from tests.muxed import served
from tests.waiting import until_so

ADMIN = LOCAL_ADMIN
RECIPES = {
    "chat": 'kind: service\ncommand: [serve]\nservice: {protocol: openai, model: "{{ alias }}"}\n'
    "parameters:\n  alias: {type: string, default: tiny}\n",
    "app": "kind: service\ncommand: [serve]\nservice: {protocol: http}\n",
    "count": 'kind: batch\ncommand: [count, "{{ to }}"]\ntitle: Counts\n'
    "parameters:\n  to: {type: integer, default: 3, maximum: 9, help: How far.}\n",
}

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@dataclass
class Site:
    """A gateway and its surroundings."""

    gateway: Gateway
    slurm: FakeSlurm
    home: Path
    recipes: Path
    pki: Pki
    token: str
    auth: dict[str, str] = field(default_factory=dict)

    async def until(self, done: Callable[[], Coroutine[Any, Any, bool]], what: str) -> None:
        await until_so(done, what=what)

    async def create(self, recipe: str = "count", **values: Any) -> Session:
        request = SessionRequest.model_validate({"recipe": recipe, **values})
        return (await sessions.create(self.gateway, ADMIN, request))[0]

    async def get(self, ref: str) -> Session:
        return await sessions.get(self.gateway, ADMIN, ref)

    async def job_id(self, ref: str) -> int:
        """Of the session's job, once Slurm has it."""
        found: list[int] = []

        async def has() -> bool:
            job_id = (await self.get(ref)).job.job_id
            found.extend([job_id] if job_id is not None else [])
            return bool(found)

        await self.until(has, f"{ref} is submitted")
        return found[0]

    async def reaches(self, ref: str, phase: Phase) -> Session:
        async def there() -> bool:
            return (await self.get(ref)).phase is phase

        await self.until(there, f"{ref} is {phase}")
        return await self.get(ref)

    async def ready(self, endpoint: Endpoint, recipe: str = "chat", **values: Any) -> Session:
        """A session that is served at the endpoint."""
        session = await self.create(recipe, **values)
        job_id = await self.job_id(session.id)
        self.slurm.start(job_id)
        place = f"tcp={endpoint.host}:{endpoint.port} sha256={endpoint.fingerprint}"
        self.slurm.announce(job_id, f"sluice/1 ready {place}")
        return await self.reaches(session.id, Phase.READY)

    def log(self, session: Session, file: str = "service") -> Path:
        """The file of a session's log."""
        path = self.home / "sessions" / session.id / f"{file}-1.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@asynccontextmanager
async def a_site(
    folder: Path,
    *,
    identity: Mapping[str, Any] | None = None,
    proxy: Mapping[str, Any] | None = None,
    tasks: Mapping[str, Any] | None = None,
    database: str | None = None,
    policies: Sequence[Path] = (),
    cluster: Mapping[str, Any] | None = None,
    way: Way | None = None,
    **reconcile: float,
) -> AsyncIterator[Site]:
    """A gateway without its loop: the server runs it, or `reconciling`."""
    recipes, home, state = folder / "recipes", folder / "home", folder / "state"
    for path in (recipes, home):
        path.mkdir()
    for name, text in RECIPES.items():
        (recipes / f"{name}.yaml").write_text(f'name: {name}\nversion: "1.0"\nimage: base\n{text}')
    places = {"session_root": str(home / "sessions"), "image_dir": str(home / "images")}
    values = {
        "state_dir": state,
        "clusters": {"c": {**places, **(cluster or {})}},
        "reconcile": {"poll_seconds": 0.1, "busy_poll_seconds": 0.05, **reconcile},
    }
    settings = Settings.model_validate(
        {**values, "identity": identity or {}, "proxy": proxy or {}, "tasks": tasks or {}, "database_url": database}
    )
    token, pki, slurm = load_or_create(state), Pki(state), FakeSlurm()
    connected = Cluster(
        name="c",
        settings=settings.clusters["c"],
        scheduler=slurm,
        files=MountedFiles(),
        cost=slurm.cost,
        way=way,
        agents=AgentChannel(AgentPath(lambda: pki.client().file, way=way)) if way is not None else None,
    )
    opened = Database(settings.database)
    opened.open()
    gateway = Gateway(
        settings=settings,
        instance="5e551075",
        db=opened,
        clusters={"c": connected},
        catalogue=Catalogue([recipes]),
        agents=AgentChannel(AgentPath(lambda: pki.client().file)),
        vault=Keyring(state / "secrets.keys"),
        client_ca=pki.ca_pem,
        clock=lambda: datetime.now(UTC),
        policies=Policies(policies),
    )
    base = Image(cluster="c", name="base", sha256="0" * 64, path="/i/base.sif", size=1, built_at=datetime.now(UTC))
    await opened.write(images.save, base)
    try:
        yield Site(gateway, slurm, home, recipes, pki, token, {"Authorization": f"Bearer {token}"})
    finally:
        await gateway.close()


@asynccontextmanager
async def reconciling(site: Site) -> AsyncIterator[None]:
    """With the reconcile loop beside, as the server runs it."""
    async with background("reconcile", Reconciler(site.gateway).run):
        yield


def node_certificate(folder: Path) -> tuple[Path, Path, str]:
    """Key, certificate and fingerprint of a node."""
    key, certificate = folder / "node.key", folder / "node.crt"
    if not certificate.exists():
        argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        argv += ["-days", "1", "-subj", "/CN=node", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(argv, check=True, capture_output=True)
    return key, certificate, hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


@asynccontextmanager
async def a_node(folder: Path, ca_pem: str, service: Handler, *, shares: bool = True) -> AsyncIterator[Endpoint]:
    """A relay with a service behind it. Without `shares` it is one of before: each of its connections carries one."""
    key, certificate, fingerprint = node_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(cadata=ca_pem)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([CONTROL, MUX] if shares else [CONTROL])
    open_ones: dict[asyncio.StreamWriter, asyncio.Future[None]] = {}
    gone = False

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if gone:  # while it shook hands
            writer.transport.abort()
            return
        open_ones[writer] = done = asyncio.get_running_loop().create_future()
        try:
            alpn = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            if alpn == CONTROL:
                await reader.readline()
                writer.write(json.dumps(_STATUS).encode() + b"\n")
                await writer.drain()
            elif alpn == MUX:
                await served(reader, writer, service)
            else:
                await service(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            done.set_result(None)
            del open_ones[writer]

    server = await asyncio.start_server(connection, "127.0.0.1", 0, ssl=context)
    try:
        yield Endpoint(host="127.0.0.1", port=server.sockets[0].getsockname()[1], fingerprint=fingerprint)
    finally:
        gone = True
        for listening in server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        await asyncio.sleep(0)  # asyncio forgets one that is accepted, if the server is closed before it begins
        server.close()
        left = dict(open_ones)
        for writer in left:
            writer.transport.abort()
        await asyncio.gather(*left.values())


_STATUS = {"ok": True, "phase": "ready", "in_flight": 0, "idle_seconds": 0.0, "requests": 0}


@dataclass
class Asked:
    """A request as a service got it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def read_request(reader: asyncio.StreamReader) -> Asked | None:
    """The next request of a connection; None at its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    elif length := int(headers.get("content-length", "0")):
        body = await reader.readexactly(length)
    return Asked(method, target, headers, body)


def answer(body: bytes | str | dict[str, Any], status: str = "200 OK", **headers: str) -> bytes:
    """A whole HTTP answer."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
    given = {"content-type": "application/json", "content-length": str(len(data)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + data


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
