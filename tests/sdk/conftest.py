"""A small HTTP server that answers what a test has laid out for it, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Answer = Callable[["Handler"], None]


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Scripted:
    """Answers are used up in order; the last one is repeated. `routes` go before, by the beginning of the path."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    routes: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def next(self, path: str) -> Answer:
        for start, answer in self.routes.items():
            if path.startswith(start):
                return answer
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Handler(BaseHTTPRequestHandler):
    server: "Server"

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        script = self.server.script
        script.asked.append(Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        script.next(self.path)(self)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815 -- named by the base class

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class names it
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    script: Scripted

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients of these tests break connections off on purpose."""


class Answers:
    """What a gateway may answer."""

    @staticmethod
    def json(value: object, status: int = 200, **headers: str) -> Answer:
        def answer(handler: Handler) -> None:
            data = json.dumps(value).encode()
            handler.send_response(status)
            for name, text in {"Content-Type": "application/json", **headers}.items():
                handler.send_header(name.replace("_", "-"), text)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)

        return answer

    @classmethod
    def problem(cls, status: int, code: str, detail: str, **more: Any) -> Answer:
        headers = more.pop("headers", {})
        return cls.json(
            {"status": status, "code": code, "detail": detail, "title": "", "type": "", **more}, status, **headers
        )

    @staticmethod
    def hang_up(handler: Handler) -> None:
        handler.close_connection = True
        handler.connection.close()

    @staticmethod
    def stream(*pieces: str) -> Answer:
        """Server-sent events, and then the end of the connection."""

        def answer(handler: Handler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Type", "text/event-stream")
            handler.send_header("Connection", "close")
            handler.end_headers()
            for piece in pieces:
                handler.wfile.write(piece.encode())
            handler.close_connection = True

        return answer

    @staticmethod
    def session(**changes: Any) -> dict[str, Any]:
        now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).isoformat()
        job = dict.fromkeys(("job_id", "state", "exit_code", "signal", "submitted_at", "started_at", "ended_at"))
        text = dict.fromkeys(("reason", "message", "image_sha256"), "")
        return {
            **text,
            "id": "01JD0000000000000000000000",
            "name": "demo",
            "owner": "admin",
            "project": "default",
            "cluster": "dev",
            "unix_user": "alice",
            "recipe": "llama-cpp",
            "recipe_version": "1.0",
            "kind": "service",
            "phase": "queued",
            "ended": False,
            "conditions": {},
            "model": "tiny",
            "image": "llama-cpp",
            "parameters": {},
            "resources": {},
            "labels": {},
            "stop_requested": False,
            "created_at": now,
            "updated_at": now,
            "ready_at": None,
            "ended_at": None,
            "job": {**job, "attempt": 1, "name": "sluice-x-1", "reason": "", "nodes": "", "restarts": 0},
            **changes,
        }


@pytest.fixture
def answers() -> type[Answers]:
    return Answers


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Server(("127.0.0.1", 0), Handler)
    made.script = Scripted(f"http://127.0.0.1:{made.server_address[1]}")
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made.script
    finally:
        made.shutdown()
        thread.join()
        made.server_close()
