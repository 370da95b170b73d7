"""`/inside/<session>/terminal` and `/inside/<session>/ports/<port>`: into a running job, by WebSocket.

Each message is binary: one byte that says what it is (0 input, 1 output, 2 errors, 3 a JSON object), then the content.
An empty input or output is the end of that direction. They are passed on to the agent in the job, and its back.
"""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.core import inside
from gateway.core.context import Gateway
from gateway.core.sessions import looked_at
from gateway.errors import Forbidden, Invalid, NotFound, SluiceError, Unauthenticated
from gateway.model.principal import Scope as TokenScope
from gateway.model.session import Session
from gateway.network.channels import FORWARD, INPUT, TERMINAL, WORDS, Channel, Path, open_channel
from gateway.web import refusals
from gateway.web.app import Part
from gateway.web.streams import LOOK_SECONDS

log = structlog.get_logger(__name__)

PREFIX = "/inside"
_PLACE = re.compile(PREFIX + r"/([A-Za-z0-9-]{1,63})/(?:(terminal)|ports/([1-9]\d{0,4}))")
_MAX_PORT = 65535
_LONGEST = 1 << 19
_FIRST_WORD_SECONDS = 30.0
_BAD_MESSAGE = 1003


class Inside:
    """The ASGI application."""

    def __init__(self, gateway: Gateway, paths: Callable[[str], Path]) -> None:
        self._gateway, self._paths = gateway, paths
        self._told = inside.Told()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _PLACE.fullmatch(scope["path"])
        if found is None or (found[3] is not None and int(found[3]) > _MAX_PORT):
            raise NotFound(f"there is nothing at {scope['path']}", hint="There are /terminal and /ports/<port>.")
        if scope["type"] != "websocket":
            raise Invalid("this is a WebSocket", hint="`sluice exec`, `sluice shell` and `sluice forward` speak it.")
        socket = WebSocket(scope, receive, send)
        if found[2]:
            await self._terminal(socket, found[1])
        else:
            await self._port(socket, found[1], int(found[3]))

    async def _terminal(self, socket: WebSocket, ref: str) -> None:
        caller = socket.scope["state"]["caller"]
        session, endpoint = await inside.enter(self._gateway, caller, ref)
        channel = await open_channel(self._paths(session.cluster), endpoint, TERMINAL)
        try:
            await socket.accept()
            if (first := await _first(socket)) is None:
                return
            await inside.tell(self._gateway, caller, session, "session.exec", _about(first))
            await channel.send(WORDS, first)
            await self._carry(socket, channel, session)
        except SluiceError as error:
            await _say(socket, error)
        finally:
            channel.close()

    async def _port(self, socket: WebSocket, ref: str, port: int) -> None:
        caller = socket.scope["state"]["caller"]
        session, endpoint = await inside.enter(self._gateway, caller, ref)
        channel = await open_channel(self._paths(session.cluster), endpoint, FORWARD)
        try:
            await self._told.forward(self._gateway, caller, session, port)
            await channel.say(port=port)
            await socket.accept()
            await self._carry(socket, channel, session)
        except SluiceError as error:
            await _say(socket, error)
        finally:
            channel.close()

    async def _carry(self, socket: WebSocket, channel: Channel, session: Session) -> None:
        """Both ways, until one side has ended, or the caller may not be in there any more."""
        ways = {asyncio.create_task(way) for way in (_up(socket, channel), _down(socket, channel))}
        ways.add(asyncio.create_task(self._vigil(socket, session)))
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in ways:
                task.cancel()
            await asyncio.wait(ways)

    async def _vigil(self, socket: WebSocket, session: Session) -> None:
        """End with why the caller may not go on: token, role, or policy. What cannot be looked up ends nothing."""
        state = socket.scope["state"]
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await state["again"]()
                await looked_at(self._gateway, state["caller"], session.id, "enter")
            except (Unauthenticated, Forbidden, NotFound):
                raise
            except SluiceError as error:
                log.warning("whoever is inside is not looked after", code=error.code, error=error.message)


async def _first(socket: WebSocket) -> bytes | None:
    """What is to be started, as its caller says it; None if it has left, having seen that it may come in."""
    try:
        async with asyncio.timeout(_FIRST_WORD_SECONDS):
            data = await socket.receive_bytes()
    except WebSocketDisconnect:
        return None
    except (TimeoutError, KeyError) as error:
        raise Invalid("the caller did not say what to start") from error
    if data[:1] != bytes([WORDS]):
        raise Invalid('the first message is {"start": {…}}')
    return data[1:]


def _about(first: bytes) -> dict[str, Any]:
    """What the audit log has of it: the program, and none of its arguments, which may hold secrets."""
    try:
        start = json.loads(first)["start"]
        argv = start.get("argv") or []
        return {"program": str(argv[0])[:200] if argv else "", "terminal": bool(start.get("tty"))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid('the first message is {"start": {…}}') from error


async def _up(socket: WebSocket, channel: Channel) -> None:
    """What the caller sends. A caller that leaves is an end like any other."""
    while True:
        message = await socket.receive()
        data = message.get("bytes")
        if message["type"] == "websocket.disconnect":
            return
        if not data or len(data) > _LONGEST or data[0] not in {INPUT, WORDS}:
            await socket.close(_BAD_MESSAGE)
            return
        await channel.send(data[0], data[1:])


async def _down(socket: WebSocket, channel: Channel) -> None:
    """What the agent sends."""
    with suppress(WebSocketDisconnect, RuntimeError):  # the caller has left while something was said to it
        while (message := await channel.receive()) is not None:
            kind, content = message
            await socket.send_bytes(bytes([kind]) + content)
        await socket.close()


async def _say(socket: WebSocket, error: SluiceError) -> None:
    """An error, where the WebSocket is open already; else the frame answers with it."""
    if socket.application_state.name != "CONNECTED":
        raise error
    log.info("inside ended", code=error.code, error=error.message)
    words = {"error": error.message, "code": error.code, "hint": error.hint}
    with suppress(WebSocketDisconnect, RuntimeError):
        await socket.send_bytes(bytes([WORDS]) + json.dumps(words).encode())
        await socket.close()


def part(gateway: Gateway, paths: Callable[[str], Path]) -> Part:
    """It as a part of a frame."""
    return Part(
        name="inside",
        prefixes=(PREFIX,),
        app=Inside(gateway, paths),
        scope=lambda method, path: TokenScope.WRITE,  # noqa: ARG005 - whatever is done in there
        refused=refusals.teller(gateway),
    )
