"""Asks the service, through its own socket, whether it is ready."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from typing import Any, Callable, Mapping, Optional

from .dial import Target, refuse_foreign

_SHOWN = 300


class _Connection(http.client.HTTPConnection):
    """HTTP to a Unix socket or to a loopback port."""

    def __init__(self, target: Target, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._target = target

    def connect(self) -> None:
        self.sock = _connect(self._target, float(self.timeout or 0))


class Prober:
    """Probes until the service is ready. `last_answer`: what it said last, in words."""

    def __init__(self, service: Mapping[str, Any], target: Target, say: Callable[[str], None]) -> None:
        """`service`: of the job spec."""
        self._service = service
        self._target = target
        self._say = say
        self.last_answer = "none"

    async def until_ready(self) -> None:
        """Says each new answer on the way."""
        probe = self._service["probe"]
        loop = asyncio.get_running_loop()
        while True:
            answer = await loop.run_in_executor(None, check, probe, self._target, probe["timeout"])
            if answer is None:
                return
            if answer != self.last_answer:
                self.last_answer = answer
                self._say(f"not ready yet: {answer}")
            await asyncio.sleep(self._service["probe_interval"])


def check(probe: Mapping[str, Any], target: Target, timeout: float) -> Optional[str]:
    """None if the service is ready, else what it answered. Blocks for at most about `timeout` seconds a step."""
    try:
        if isinstance(target, int):
            refuse_foreign(target)
        if probe["kind"] == "tcp":
            _connect(target, timeout).close()
            return None
        if probe["kind"] == "http":
            status, body = _ask(target, timeout, "GET", probe["path"], None)
            return None if status == probe["status"] else f"HTTP {status}: {_shown(body)}"
        question = {"model": probe["model"], "prompt": "ready?", "max_tokens": 1}
        status, body = _ask(target, timeout, "POST", probe["path"], json.dumps(question).encode())
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    if status != http.client.OK:
        return f"HTTP {status}: {_shown(body)}"
    try:
        return None if isinstance(json.loads(body), dict) else f"not a JSON object: {_shown(body)}"
    except ValueError:
        return f"not JSON: {_shown(body)}"


def get(target: Target, path: str, timeout: float) -> bytes:
    """The body of what the service answers with 200. OSError if it does not."""
    if isinstance(target, int):
        refuse_foreign(target)
    try:
        status, body = _ask(target, timeout, "GET", path, None)
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from None
    if status != http.client.OK:
        raise OSError(f"HTTP {status} for {path}")
    return body


def _ask(target: Target, timeout: float, method: str, path: str, body: Optional[bytes]) -> "tuple[int, bytes]":
    connection = _Connection(target, timeout)
    try:
        headers = {"Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 20)
    finally:
        connection.close()


def _connect(target: Target, timeout: float) -> socket.socket:
    if isinstance(target, int):
        return socket.create_connection(("127.0.0.1", target), timeout)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock


def _shown(body: bytes) -> str:
    return body[:_SHOWN].decode("utf-8", "replace")
