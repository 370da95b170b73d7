"""A whole gateway over HTTP for tests that do not run in its event loop: those of the blocking SDK and of commands."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from structlog.testing import capture_logs

from gateway.client.app import parts
from gateway.identity.opening import open_callers
from gateway.model.announcement import Endpoint
from gateway.model.session import Phase, Session
from gateway.server.app import part
from gateway.web.app import Web
from gateway.web.serving import running
from tests.ports import free_port
from tests.services import STREAM_HEAD, Site, a_node, a_site, answer, chunk, read_request

T = TypeVar("T")
WITHIN = 150.0


@dataclass
class Live:
    """The gateway, from another thread. `asked` are the chats that reached the model server."""

    url: str
    token: str
    site: Site
    model_server: Endpoint
    asked: list[dict[str, Any]]
    loop: asyncio.AbstractEventLoop
    restarts: asyncio.Queue[asyncio.Event | None]

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WITHIN)

    def in_slurm(self, act: Callable[..., None], *args: Any, **options: Any) -> None:
        """Let something happen in the in-memory Slurm."""

        async def work() -> None:
            act(*args, **options)

        self.do(work())

    def job_id(self, ref: str) -> int:
        return self.do(self.site.job_id(ref))

    def reaches(self, ref: str, phase: str) -> Session:
        return self.do(self.site.reaches(ref, Phase(phase)))

    def ready(self, recipe: str = "chat", **values: Any) -> Session:
        """A session that the model server answers for."""
        return self.do(self.site.ready(self.model_server, recipe, **values))

    def restart(self) -> None:
        """The services end, everybody's connections with them, and begin again at the same address."""

        async def work() -> None:
            began = asyncio.Event()
            await self.restarts.put(began)
            await began.wait()

        self.do(work())

    @property
    def env(self) -> dict[str, str]:
        return {"SLUICE_URL": self.url, "SLUICE_TOKEN": self.token}


@contextmanager
def live(folder: Path) -> Iterator[Live]:
    """Serve while the block runs."""
    made: list[Live] = []
    up = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(folder, made, up)))
    with capture_logs():  # its log lines would stand among what a command prints
        thread.start()
        assert up.wait(WITHIN)
        try:
            yield made[0]
        finally:
            made[0].do(made[0].restarts.put(None))
            thread.join()


async def _serve(folder: Path, made: list[Live], up: threading.Event) -> None:
    asked: list[dict[str, Any]] = []
    restarts: asyncio.Queue[asyncio.Event | None] = asyncio.Queue()
    try:
        async with a_site(folder) as site, a_node(folder, site.pki.ca_pem, _model_server(asked)) as node:
            port, began = free_port(), None  # it is taken again at a restart, and nobody else's meanwhile
            while True:
                web = Web([part(site.gateway), *parts(site.gateway)], open_callers(site.gateway))
                async with running(web, port=port) as url:
                    if began is not None:
                        began.set()
                    elif not made:
                        made.append(Live(url, site.token, site, node, asked, asyncio.get_running_loop(), restarts))
                        up.set()
                    began = await restarts.get()
                if began is None:
                    return
    finally:
        up.set()


def _model_server(
    asked: list[dict[str, Any]],
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
    """Streams the last message back, word by word."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await read_request(reader)) is not None:
            body = request.json
            asked.append(body)
            said = f"You said: {body['messages'][-1]['content']}"
            if not body.get("stream"):
                message = {"role": "assistant", "content": said}
                writer.write(answer({"choices": [{"index": 0, "message": message}]}))
            else:
                writer.write(STREAM_HEAD)
                for word in said.split(" "):
                    piece = {"choices": [{"index": 0, "delta": {"content": f"{word} "}}]}
                    writer.write(chunk(f"data: {json.dumps(piece)}\n\n".encode()))
                writer.write(chunk(b"data: [DONE]\n\n") + chunk(b""))
            await writer.drain()

    return serve
