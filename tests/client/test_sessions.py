"""The session proxy: any method, both ways in constant memory, prefixes, WebSockets."""

import asyncio
import base64
import hashlib
import json
import random
import resource
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as WsRequest
from websockets.http11 import Response as WsResponse
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from gateway.client.moving import moved
from gateway.model.session import Phase
from tests.services import Asked, answer, chunk, read_request
from tests.waiting import until_so

KERNEL = Subprotocol("kernel.v1")
WITHIN = 120.0
#: Both ends and all that is between them have one processor.
PATIENT: Mapping[str, Any] = {"open_timeout": WITHIN, "close_timeout": WITHIN, "ping_interval": None}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the request as it came."""
    while (asked := await read_request(reader)) is not None:
        body = b"" if asked.method == "HEAD" else asked.body
        told = {
            "method": asked.method,
            "target": asked.target,
            "headers": asked.headers,
            "body": body.decode("latin-1"),
        }
        whole = answer(told)
        writer.write(whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if asked.method == "HEAD" else whole)


async def test_any_method_reaches_the_service_under_its_own_root(plane: Any) -> None:
    session = await plane.serve(echo, "app", name="web")
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        told = (await plane.http.request(method, "/s/web/a%2Fb/c?x=1&y=%20")).json()
        assert (told["method"], told["target"]) == (method, "/a%2Fb/c?x=1&y=%20")
    head = await plane.http.head("/s/web/")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0
    headers = (await plane.http.get(f"/s/{session.id}/", headers={"Cookie": "app=1"})).json()["headers"]
    assert headers["x-forwarded-prefix"] == f"/s/{session.id}"
    assert headers["cookie"] == "app=1"
    assert plane.site.token not in str(headers)
    assert "authorization" not in headers


async def test_a_body_of_known_length_and_one_in_pieces_arrive_whole(plane: Any) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(50):
            yield b"%d," % number

    await plane.serve(echo, "app", name="web")
    assert (await plane.http.post("/s/web/", content=b"abc")).json()["headers"]["content-length"] == "3"
    told = (await plane.http.post("/s/web/", content=pieces())).json()
    assert told["body"] == "".join(f"{number}," for number in range(50))
    assert told["headers"]["transfer-encoding"] == "chunked"


async def test_the_slash_is_added_so_that_relative_links_work(plane: Any) -> None:
    await plane.serve(echo, "app", name="web")
    response = await plane.http.get("/s/web?a=b")
    assert (response.status_code, response.headers["location"]) == (308, "/s/web/?a=b")


async def test_who_is_not_there_or_not_ready(plane: Any) -> None:
    for path in ("/s/", "/s", "/s/none/", "/s/..%2f..%2fv1/", "/%73/none/"):
        assert (await plane.http.get(path)).status_code == 404, path
    await plane.site.create("app", name="coming")
    coming = await plane.http.get("/s/coming/")
    assert (coming.status_code, coming.json()["code"]) == (503, "not_ready")
    assert int(coming.headers["retry-after"]) > 0
    batch = await plane.site.create("count", name="batch")
    assert "no service" in (await plane.http.get("/s/batch/")).json()["detail"]
    await plane.site.job_id(batch.id)
    async with httpx.AsyncClient(base_url=plane.url, timeout=60) as stranger:
        refused = await stranger.get("/s/coming/")
        assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
        word = base64.b64encode(f"me:{plane.site.token}".encode()).decode()
        assert (await stranger.get("/s/coming/", headers={"Authorization": f"Basic {word}"})).status_code == 503


@pytest.mark.parametrize("way", ["direct"])  # gigabytes take too long through two ciphers
async def test_big_bodies_pass_in_constant_memory(plane: Any) -> None:
    size, piece = 400 << 20, 1 << 20
    taken = asyncio.get_running_loop().create_future()

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            got = 0
            while got < size:
                got += len(await reader.read(piece))
            taken.set_result(got)
            writer.write(answer({}))
        else:
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode())
            for _ in range(size // piece):
                writer.write(b"\0" * piece)
                await writer.drain()

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(size // piece):
            yield b"\0" * piece

    await plane.serve(sink, "app", name="web")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await plane.http.post("/s/web/", content=upload(), headers={"Content-Length": str(size)})
    assert await taken == size
    got = 0
    async with plane.http.stream("GET", "/s/web/") as response:
        async for data in response.aiter_bytes():
            got += len(data)
    assert got == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


async def until_still(count: Callable[[], int]) -> int:
    """How far it got until it came no further."""
    seen = [0]

    def still() -> bool:
        seen.append(count())
        return seen[-1] > 0 and len(seen) > 20 and len(set(seen[-20:])) == 1

    await until_so(still, what="no more is taken")
    return seen[-1]


@pytest.mark.parametrize("way", ["slow"])
@pytest.mark.parametrize("plane", [{"session_in_flight": 1}], indirect=True)
async def test_a_body_that_waited_in_line_comes_no_faster_than_the_link_takes_it(plane: Any) -> None:
    size, piece, sent = 128 << 20, 1 << 18, 0
    asked: list[asyncio.Event] = []

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.append(go := asyncio.Event())
        await go.wait()
        writer.write(answer({}))

    await plane.serve(service, "app", name="web")
    first = asyncio.create_task(plane.http.get("/s/web/"))
    await until_so(lambda: len(asked) == 1)
    reader, writer = await asyncio.open_connection(*plane.url.removeprefix("http://").split(":"))
    writer.write(f"POST /s/web/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {plane.site.token}\r\n".encode())
    writer.write(f"Content-Length: {size}\r\n\r\n".encode())

    async def upload() -> None:
        nonlocal sent
        while sent < size:
            writer.write(bytes(piece))
            await writer.drain()
            sent += piece

    uploading = asyncio.create_task(upload())
    assert await until_still(lambda: sent) < size / 2, "only the kernel's buffers are full of it"
    asked[0].set()
    assert (await first).status_code == 200
    await until_so(lambda: len(asked) == 2)
    assert await until_still(lambda: sent) < size / 2
    uploading.cancel()
    asked[1].set()
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.transport.abort()


async def test_who_reads_slowly_holds_back_who_writes_and_nothing_piles_up_on_the_way(plane: Any) -> None:
    pieces, piece = 96, random.Random(3).randbytes(1 << 20)  # noqa: S311 - the same at each run
    whole = hashlib.sha256(piece * pieces).hexdigest()
    go, sent, uploaded = asyncio.Event(), 0, 0

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            await go.wait()
            got = hashlib.sha256()
            for _ in range(pieces):
                got.update(await reader.readexactly(len(piece)))
            writer.write(answer({"sha256": got.hexdigest()}, connection="close"))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (pieces * len(piece)))
            for _ in range(pieces):
                writer.write(piece)
                await writer.drain()
                sent += 1

    async def upload() -> AsyncIterator[bytes]:
        nonlocal uploaded
        for _ in range(pieces):
            yield piece
            uploaded += 1

    await plane.serve(service, "app", name="web")
    size = {"Content-Length": str(pieces * len(piece))}
    async with httpx.AsyncClient(base_url=plane.url, headers=plane.site.auth, timeout=WITHIN) as http:
        asking = asyncio.create_task(http.post("/s/web/", content=upload(), headers=size))
        assert await until_still(lambda: uploaded) < pieces / 2
        go.set()
        assert (await asking).json() == {"sha256": whole}
        async with http.stream("GET", "/s/web/") as response:
            assert await until_still(lambda: sent) < pieces / 2
            got = hashlib.sha256()
            async for data in response.aiter_bytes():
                got.update(data)
    assert got.hexdigest() == whole


async def test_an_answer_before_the_request_is_read_comes_through(plane: Any) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer({"too": "large"}, "413 Content Too Large"))
        await writer.drain()
        await reader.read()

    await plane.serve(refuse, "app", name="web")
    gate = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await gate.wait()
        yield b"y"

    asking = asyncio.create_task(plane.http.post("/s/web/", content=endless()))

    async def answered() -> bool:
        gate.set()
        return asking.done()

    await plane.site.until(answered, "the refusal")
    assert (await asking).status_code == 413


async def test_a_request_that_must_not_be_repeated_is_not(plane: Any) -> None:
    seen: list[Asked] = []

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request of a connection, and closes at the second without a word."""
        for number in range(2):
            asked = await read_request(reader)
            if asked is None:
                return
            seen.append(asked)
            if number == 0:
                writer.write(answer({}))

    await plane.serve(once, "app", name="web")
    for method, status in (("GET", 200), ("POST", 502), ("GET", 200), ("GET", 200)):
        assert (await plane.http.request(method, "/s/web/", content=b"")).status_code == status
    assert [asked.method for asked in seen] == ["GET", "POST", "GET", "GET", "GET"]  # the last one died, and went again


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + answer("late"), b"late"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"a") + b"0\r\nx: y\r\n\r\n", b"a"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
async def test_every_form_of_an_answer_is_understood(plane: Any, given: bytes, expected: bytes) -> None:
    async def fixed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(given)

    await plane.serve(fixed, "app", name="web")
    for _ in range(2):
        response = await plane.http.get("/s/web/")
        assert (response.status_code, response.content) == (204 if b"204" in given else 200, expected)
        assert "link" not in response.headers


@pytest.mark.parametrize("given", [b"SSH-2.0-OpenSSH\r\n", b"", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000])
async def test_what_is_no_http_is_a_bad_gateway(plane: Any, given: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(given)

    await plane.serve(other, "app", name="web")
    response = await plane.http.get("/s/web/")
    assert (response.status_code, response.json()["code"]) == (502, "endpoint_unavailable")


def test_redirects_and_cookies_stay_below_the_session() -> None:
    def one(name: bytes, value: bytes) -> bytes:
        return moved([(name, value)], b"/s/web", b"gate:8000")[0][1]

    assert one(b"location", b"/login?next=/") == b"/s/web/login?next=/"
    assert one(b"location", b"http://gate:8000/a#b") == b"/s/web/a#b"
    for kept in (b"relative", b"/s/web/lab", b"https://elsewhere.example/x", b"//cdn.example/x", b"?a=b"):
        assert one(b"location", kept) == kept
    assert one(b"set-cookie", b"a=b; HttpOnly") == b"a=b; HttpOnly; Path=/s/web/"
    assert one(b"set-cookie", b"a=b; Path=/hub; Secure") == b"a=b; Secure; Path=/s/web/hub"
    assert one(b"set-cookie", b"a=b; path=/s/web/; Secure") == b"a=b; path=/s/web/; Secure"
    assert one(b"content-type", b"/x") == b"/x"
    assert moved([(b"service-worker-allowed", b"/"), (b"clear-site-data", b'"*"')], b"/s/web", b"gate:8000") == []


async def ws_service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echoes messages after saying what the handshake was; `bye` makes it close with 4001, `/no` is refused."""
    protocol = ServerProtocol(
        select_subprotocol=lambda _, offered: KERNEL if KERNEL in offered else None, max_size=None
    )
    protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
    (request,) = protocol.events_received()
    assert isinstance(request, WsRequest)
    response = protocol.reject(403, "not here") if request.path == "/no" else protocol.accept(request)
    assert isinstance(response, WsResponse)
    protocol.send_response(response)
    if request.path != "/no":
        protocol.send_text(json.dumps([request.path, dict(request.headers.raw_items())]).encode())
    while True:
        for data in protocol.data_to_send():
            writer.write(data) if data else writer.close()
        if not (data := await reader.read(65536)):
            return
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Frame) and event.data == b"bye":
                protocol.send_close(4001, "done")
            elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                protocol.send_binary(event.data)
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                protocol.send_text(event.data)


async def test_websockets_pass_both_ways_with_subprotocol_and_close_code(plane: Any) -> None:
    await plane.serve(ws_service, "app", name="lab")
    url = f"{plane.url.replace('http', 'ws')}/s/lab/api/channels?session=1"
    headers, protocols = plane.site.auth, [KERNEL]
    how: dict[str, Any] = {"subprotocols": protocols, "max_size": None, **PATIENT}
    async with connect(url, additional_headers=headers, proxy=None, **how) as socket:
        assert socket.subprotocol == "kernel.v1"
        path, shown = json.loads(await socket.recv())
        assert path == "/api/channels?session=1"
        lowered = {name.lower(): value for name, value in shown.items()}
        assert lowered["host"] == plane.url.removeprefix("http://")
        assert lowered["x-forwarded-prefix"] == "/s/lab"
        assert "authorization" not in lowered
        await socket.send("text")
        assert await socket.recv() == "text"
        big = bytes(range(256)) * 20_000
        await socket.send(big)
        assert await socket.recv() == big
        await socket.send("bye")
        with pytest.raises(ConnectionClosed) as ended:
            await socket.recv()
        assert ended.value.rcvd is not None
        assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (4001, "done")


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [("/s/lab/no", True, 403), ("/s/none/", True, 404), ("/s/lab/", False, 401), ("/v1/x", True, 404)],
)
async def test_websockets_that_cannot_be_are_refused(plane: Any, path: str, token: bool, status: int) -> None:
    await plane.serve(ws_service, "app", name="lab")
    headers = plane.site.auth if token else {}
    with pytest.raises(InvalidStatus) as refused:
        async with connect(
            f"{plane.url.replace('http', 'ws')}{path}", additional_headers=headers, proxy=None, **PATIENT
        ):
            pass
    assert refused.value.response.status_code == status


async def test_a_websocket_ends_when_its_session_does(plane: Any) -> None:
    endpoint = await plane.node(ws_service)
    await plane.site.ready(endpoint, "app", name="lab")
    url = f"{plane.url.replace('http', 'ws')}/s/lab/"
    async with connect(url, additional_headers=plane.site.auth, proxy=None, **PATIENT) as socket:
        await socket.recv()
        await plane.drop(endpoint)
        with pytest.raises(ConnectionClosed) as ended:
            await socket.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1001
    await plane.site.reaches("lab", Phase.READY)
