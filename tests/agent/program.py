"""A small service for the tests: HTTP/1.1 on $SLUICE_SOCKET or 127.0.0.1:$SLUICE_PORT. Python >= 3.8, stdlib only.

Options: `--delay S` before it listens, `--after FILE` (not before there is one), `--exit-after S CODE`,
`--ignore-term N` (the first N SIGTERMs), `--child` (leaves a child that ignores SIGTERM, in a session of its own).
The first completions fail, while /health is 200. What /held streams ends when there is a file `go` where it runs.
"""

import itertools
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

OPTIONS = sys.argv[1:]
COMPLETIONS, FAILING = itertools.count(1), 3
SLEEPER = "import signal,time;signal.signal(15,signal.SIG_IGN);time.sleep(600)"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = False

    def address_string(self) -> str:
        return "client"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if url.path == "/health":
            self.answer(200, {"ok": True})
        elif url.path == "/about":
            self.answer(
                200, {"argv": sys.argv[1:], "env": dict(os.environ), "cwd": str(Path.cwd()), "pid": os.getpid()}
            )
        elif url.path == "/stream":
            self.stream(int(query["n"]), float(query["gap"]))
        elif url.path == "/held":
            self.stream(2, 0.0, Path("go"))
        elif url.path == "/big":
            self.big(int(query["size"]))
        elif url.path == "/exit":
            os._exit(int(query["code"]))
        else:
            self.answer(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/completions":
            late = next(COMPLETIONS) > FAILING
            self.answer(200 if late else 500, {"asked": json.loads(body)} if late else {"error": "engine is dead"})
            return
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, count: int, gap: float, last_after: "Path | None" = None) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(count):
            if last_after is not None and number == count - 1:
                until_there(last_after)
            piece = b"piece %d\n" % number
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
            time.sleep(gap)
        self.wfile.write(b"0\r\n\r\n")

    def big(self, size: int) -> None:
        self.send_response(200)
        self.send_header("content-length", str(size))
        self.end_headers()
        block = b"x" * 65536
        while size > 0:
            self.wfile.write(block[:size])
            size -= len(block)

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self) -> None:
        port = os.environ.get("SLUICE_PORT")
        self.address_family = socket.AF_INET if port else socket.AF_UNIX
        where: Any = ("127.0.0.1", int(port)) if port else os.environ["SLUICE_SOCKET"]
        super().__init__(where, Handler)

    def get_request(self) -> Any:
        sock, _address = super().get_request()
        return sock, ("client", 0)


def option(name: str, count: int) -> "list[str]":
    if name not in OPTIONS:
        return []
    at = OPTIONS.index(name) + 1
    return OPTIONS[at : at + count]


def until_there(file: Path) -> None:
    while not file.exists():
        time.sleep(0.02)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    left = [int(value) for value in option("--ignore-term", 1)] or [0]

    def on_term(_number: int, _frame: Any) -> None:
        say("got SIGTERM")
        left[0] -= 1
        if left[0] < 0:
            os._exit(0)

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGUSR1, lambda _number, _frame: say("got SIGUSR1"))
    if "--child" in OPTIONS:
        subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
    for value in option("--delay", 1):
        time.sleep(float(value))
    for value in option("--after", 1):
        until_there(Path(value))
    if option("--exit-after", 2):
        after, code = option("--exit-after", 2)
        threading.Timer(float(after), os._exit, [int(code)]).start()
    say("listening")
    Server().serve_forever()


main()
