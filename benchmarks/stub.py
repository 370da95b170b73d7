#!/usr/bin/env python3
"""A model server that is no bottleneck: answers at once, on a Unix socket (for the agent) and a TCP port (direct).

It is the script of a recipe and runs inside a job: standard library only, $SLUICE_SOCKET and $PARAM_PORT say where.
"""

import asyncio
import json
import os

ANSWER = json.dumps(
    {
        "id": "stub",
        "object": "chat.completion",
        "model": "stub",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "text": "hello"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)


class Stub(asyncio.Protocol):
    """Reads requests with a content-length, answers each with the same completion."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            self.transport.write(OK)


async def main(socket: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_unix_server(Stub, socket),
        await loop.create_server(Stub, "0.0.0.0", port, backlog=1024),  # noqa: S104 - a test host's own network
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main(os.environ["SLUICE_SOCKET"], int(os.environ["PARAM_PORT"])))
