"""The little HTTP/1.1 that slurmrestd needs, on h11, with three things that general clients do not give.

slurmrestd answers a request that it refuses twice (once in JSON, once in text, after `Connection: Close`), often in
one segment; clients that check for data after the last answer lose the words of the refusal, this one reads the
first answer and closes. A failure says whether the request can have been carried out. And a submit is never
repeated behind our back on another connection.
"""

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import h11

_CHUNK: Final = 1 << 18
SAFE: Final = frozenset({"GET", "DELETE"})  # the same when done twice


class NotSent(Exception):
    """The request did not reach slurmrestd."""


class AnswerLost(Exception):
    """The request may have been carried out; its answer did not arrive."""


@dataclass(frozen=True)
class Response:
    status: int
    text: str


@dataclass
class _Line:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    state: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))
    idle_since: float = 0.0

    def fit(self, idle: float) -> bool:
        """The other side has not closed it, as far as we know."""
        return time.monotonic() - self.idle_since < idle and not self.writer.is_closing() and not self.reader.at_eof()


class Wire:
    """Connections to one server, at `http(s)://host:port` or `unix:/path/of/socket`; seconds for all times."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        connect_timeout: float,
        connections: int,
        idle: float,
        ca_file: Path | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._socket = unquote(parts.path) if parts.scheme == "unix" else None
        self._tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (443 if self._tls else 80)
        self._authority = parts.netloc or "localhost"
        self.prefix = "" if self._socket else parts.path.rstrip("/")
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._idle_for = idle
        self._room = asyncio.Semaphore(connections)
        self._idle: list[_Line] = []

    async def close(self) -> None:
        lines, self._idle = self._idle, []
        for line in lines:
            line.writer.close()

    async def request(
        self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None = None
    ) -> Response:
        """One exchange. NotSent, AnswerLost."""
        async with self._room:
            line = self._reusable()
            if line is not None:
                try:
                    return await self._exchange(line, method, target, headers, body)
                except AnswerLost:
                    if method not in SAFE:
                        raise
                    # slurmrestd was restarted since, or closed what was idle: ask again
            return await self._exchange(await self._open(), method, target, headers, body)

    def _reusable(self) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            if line.fit(self._idle_for):
                return line
            line.writer.close()
        return None

    async def _open(self) -> _Line:
        try:
            async with asyncio.timeout(self._connect_timeout):
                if self._socket is not None:
                    return _Line(*await asyncio.open_unix_connection(self._socket))
                return _Line(*await asyncio.open_connection(self._host, self._port, ssl=self._tls))
        except TimeoutError as error:
            raise NotSent(f"no connection within {self._connect_timeout:g} s") from error
        except OSError as error:
            raise NotSent(error.strerror or str(error)) from error

    async def _exchange(
        self, line: _Line, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None
    ) -> Response:
        keep = False
        try:
            async with asyncio.timeout(self._timeout):
                await self._send(line, method, target, headers, body)
                response = await self._receive(line)
            keep = response.status < 400 and line.state.our_state is h11.DONE  # noqa: PLR2004
            keep = keep and line.state.their_state is h11.DONE
        except TimeoutError as error:
            raise AnswerLost(f"no answer within {self._timeout:g} s") from error
        except (OSError, h11.RemoteProtocolError) as error:
            raise AnswerLost(str(error) or type(error).__name__) from error
        finally:
            if keep:
                line.state.start_next_cycle()
                line.idle_since = time.monotonic()
                self._idle.append(line)
            else:
                line.writer.close()
        return response

    async def _send(
        self, line: _Line, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None
    ) -> None:
        lines = [("Host", self._authority), ("Accept", "application/json"), *headers]
        if body is not None:
            lines += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        data = line.state.send(h11.Request(method=method, target=target, headers=lines)) or b""
        if body is not None:
            data += line.state.send(h11.Data(data=body)) or b""
        data += line.state.send(h11.EndOfMessage()) or b""
        line.writer.write(data)
        await line.writer.drain()

    async def _receive(self, line: _Line) -> Response:
        status = 0
        parts: list[bytes] = []
        while True:
            event = line.state.next_event()
            if event is h11.NEED_DATA:
                line.state.receive_data(await line.reader.read(_CHUNK))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return Response(status, b"".join(parts).decode(errors="replace"))
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("the connection was closed without an answer")
