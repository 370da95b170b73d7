#!/usr/bin/env python3
"""A model server that is no bottleneck: answers at once, on a Unix socket (for the agent) and a TCP port (direct).

It is the script of a recipe and runs inside a job: standard library only, $SLUICE_SOCKET and $PARAM_PORT say where.
`stream` gives `max_tokens` events, one every `seed` milliseconds, the first at once; each carries the time at which it
was written (CLOCK_MONOTONIC, microseconds), so that a client on the same machine sees how long it was on its way. One
whose `user` is `rude` has its connection closed after a stream without a word, as llama-server does.
"""

import asyncio
import json
import os
import time

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
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = (
    b'data: {"id":"stub","object":"chat.completion.chunk","created":1,"model":"stub",'
    b'"choices":[{"index":0,"delta":{"content":"T%d "},"finish_reason":null}]}\n\n'
)
LAST = b'data: {"id":"stub","object":"chat.completion.chunk","created":1,"model":"stub","choices":[],"usage":'
LAST += b'{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":%d}}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Stub(asyncio.Protocol):
    """Reads requests with a content-length, answers each with the same completion, or with a stream."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""
        self.timer: asyncio.TimerHandle | None = None
        self.loop = asyncio.get_running_loop()

    def connection_lost(self, _exc: "Exception | None") -> None:
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self.swallowing:
            self.swallow(data)
            return
        self.buffer += data
        while self.timer is None and (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if head.startswith(b"put "):
                rest, self.buffer, self.swallowing = self.buffer[end + 4 :], b"", length
                self.swallow(rest)
                return
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            if head.startswith(b"get /download/"):
                self.download(int(head.split(b" ")[1].rpartition(b"/")[2]))
            elif b'"stream": true' in body or b'"stream":true' in body:
                asked = json.loads(body)
                self.rude = asked.get("user") == "rude"
                self.gap, self.number, self.sent = asked.get("seed", 10) / 1000, asked["max_tokens"], 0
                self.began = self.loop.time()
                self.transport.write(STREAM)
                self.tick()
            else:
                self.transport.write(OK)

    def tick(self) -> None:
        self.timer = None
        event = chunk(EVENT % (time.monotonic_ns() // 1000))
        self.sent += 1
        if self.sent < self.number:
            self.transport.write(event)
            wait = self.began + self.sent * self.gap - self.loop.time()
            self.timer = self.loop.call_later(max(wait, 0), self.tick)
            return
        self.transport.write(
            event + chunk(LAST % (self.sent, self.sent + 1)) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        )
        if self.rude:
            self.transport.close()
        elif self.buffer:
            self.data_received(b"")

    def download(self, size: int) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        self.left = size
        self.resume_writing()

    swallowing = 0

    def swallow(self, data: bytes) -> None:
        """An upload is counted, not kept."""
        self.swallowing -= len(data)
        if not self.swallowing:
            self.transport.write(OK)

    left = 0
    writable = True

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        while self.left and self.writable:
            piece = min(self.left, 1 << 18)
            self.left -= piece
            self.transport.write(bytes(piece))


async def main(socket: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_unix_server(Stub, socket, backlog=1024),
        await loop.create_server(Stub, "0.0.0.0", port, backlog=1024),  # noqa: S104 - a test host's own network
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(os.environ["SLUICE_SOCKET"], int(os.environ["PARAM_PORT"])))
