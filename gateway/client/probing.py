"""Asking a service that gave bad answers what its recipe asks it before it counts as ready."""

import asyncio
import json

from gateway.agent.landing import Bytes
from gateway.client.connection import Connection
from gateway.client.framing import Malformed
from gateway.client.http1 import END, ResponseHead
from gateway.model.jobspec import CompletionProbe, HttpProbe, Probe
from gateway.web.limits import LONGEST_HEAD

_OK = 200


class Question:
    """A probe as a request. `status`: the answer that means ready; `seconds`: how long it may take."""

    __slots__ = ("_text", "seconds", "status")

    def __init__(self, probe: Probe) -> None:
        self.seconds, self.status, self._text = probe.timeout, _OK, b""
        match probe:
            case HttpProbe():
                self.status = probe.status
                self._text = f"GET {probe.path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
            case CompletionProbe():
                body = json.dumps({"model": probe.model, "prompt": "hi", "max_tokens": 1}).encode()
                head = f"POST {probe.path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                self._text = head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body

    async def ask(self, connection: Connection) -> bool:
        """Whether the service answers as it should. The connection is used up."""
        if not self._text:
            connection.abort()
            return True  # a service that speaks no HTTP is asked for a connection alone
        listener = _Listener()
        connection.user = listener
        connection.write(self._text)
        try:
            async with asyncio.timeout(self.seconds):
                return await listener.status == self.status
        except TimeoutError:
            return False
        finally:
            connection.abort()


class _Listener:
    """Waits for the status of one answer; 0 if there is none."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._data = b""

    def answered(self, data: Bytes) -> None:
        self._data += data
        end = self._data.find(END)
        try:
            if end >= 0:
                self._tell(ResponseHead(self._data[: end + 4]).status)
            elif len(self._data) > LONGEST_HEAD:
                self._tell(0)
        except Malformed:
            self._tell(0)

    def broke(self, why: str, *, whole: bool) -> None:
        del why, whole
        self._tell(0)

    def congested(self) -> None:
        return

    def relieved(self) -> None:
        return

    def _tell(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)
