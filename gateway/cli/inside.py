"""The WebSocket of the client service that leads into a running job: opened with what the SDK's client knows.

See gateway/client/inside.py for the messages.
"""

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gateway.errors import SluiceError, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from gateway.sdk import Sluice

INPUT, OUTPUT, ERRORS, WORDS = range(4)
PIECE = 1 << 16
_OPEN_SECONDS = 60.0


async def dial(sluice: "Sluice", ref: str, place: str) -> "ClientConnection":
    """A WebSocket at this place of the session. A token that has just ended is renewed, once."""
    try:
        return await _dial(sluice, ref, place)
    except Unauthenticated:
        before = sluice.token
        await asyncio.to_thread(sluice.me)  # renews what can be renewed
        if sluice.token == before:
            raise
        return await _dial(sluice, ref, place)


async def _dial(sluice: "Sluice", ref: str, place: str) -> "ClientConnection":
    import httpx
    from websockets.asyncio.client import connect, unix_connect
    from websockets.exceptions import InvalidStatus, WebSocketException

    from gateway.sdk import defaults, wire

    base = defaults.base(sluice.url)
    address = f"ws{base.removeprefix('http')}/inside/{quote(ref, safe='')}/{place}"
    headers = {"X-Sluice-Origin": "cli"} | ({"Authorization": f"Bearer {sluice.token}"} if sluice.token else {})
    options: dict[str, Any] = {
        "additional_headers": headers,
        "compression": None,
        "max_size": 1 << 24,
        "open_timeout": _OPEN_SECONDS,
        "user_agent_header": "sluice-cli",
    }
    socket = defaults.socket_of(sluice.url)
    try:
        if socket is not None:
            return await unix_connect(socket, address, **options)
        return await connect(address, proxy=None if defaults.is_local(sluice.url) else True, **options)
    except InvalidStatus as error:
        told = error.response
        request = httpx.Request("GET", address)
        answer = httpx.Response(told.status_code, content=bytes(told.body or b""), request=request)
        raise wire.problem(answer) from error
    except (OSError, TimeoutError, WebSocketException) as error:
        raise Unavailable(
            f"the gateway at {sluice.url} does not answer: {error or type(error).__name__}",
            hint="Is it running, and is SLUICE_URL right?",
        ) from error


def error_of(words: dict[str, Any]) -> SluiceError:
    """The error that the gateway, or the agent in the job, told."""
    from gateway.sdk import wire

    if "code" in words:
        told = {"code": words["code"], "detail": words["error"], "hint": words.get("hint")}
        return wire.told_error(told, status=0)
    return Unavailable(str(words["error"]))


def read_words(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data)
    return found


def words(**values: Any) -> bytes:
    return bytes([WORDS]) + json.dumps(values).encode()
