"""A closed-loop load generator: N connections, each sends its next request when the answer is there."""

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Result:
    """Seconds of each answered request, and how many failed."""

    seconds: list[float] = field(default_factory=list)
    errors: int = 0
    took: float = 0.0


async def load(url: str, body: bytes, *, headers: dict[str, str], connections: int, requests: int) -> Result:
    """Send `requests` POSTs over `connections` keep-alive connections. Plain HTTP/1.1, so the client costs little."""
    place = urlsplit(url)
    lines = [f"POST {place.path} HTTP/1.1", f"Host: {place.netloc}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    message = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    result, left = Result(), iter(range(requests))

    async def worker() -> None:
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        for _ in left:
            began = time.perf_counter()
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            await _body(reader, head.lower())
            if head.split(b" ", 2)[1] in {b"200", b"201"}:
                result.seconds.append(time.perf_counter() - began)
            else:
                result.errors += 1
        writer.close()
        await writer.wait_closed()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    result.took = time.perf_counter() - began
    return result


async def _body(reader: asyncio.StreamReader, head: bytes) -> None:
    at = head.find(b"content-length:")
    if at >= 0:
        await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]))
        return
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readline()
