"""The shipped configurations of nginx and HAProxy before real services: only addresses and certificates are others."""

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest

from gateway.identity.local import load
from tests.certificates import Authority
from tests.ports import free_port
from tests.waiting import until

DEPLOY = Path(__file__).parents[2] / "deploy"
WITHIN = 180.0
HOSTS = ("sluice.example.org", "demo.sessions.example.org")


@dataclass
class Services:
    """A server and two processes of the client service on one database."""

    folder: Path
    ports: dict[int, int]
    token: str
    clients: list[subprocess.Popen[bytes]]
    authority: Authority

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def asked(self, port: int) -> int:
        """How many lists of models a process has answered."""
        shown = httpx.get(f"http://127.0.0.1:{self.ports[port]}/metrics", headers=self.auth, timeout=60).text
        return sum(
            int(float(number))
            for number in re.findall(r'^sluice_http_requests_total\{.*"/v1/models".*\} (\S+)', shown, re.MULTILINE)
        )


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=60).status_code < 500
    except httpx.TransportError:
        return False


@contextmanager
def a_process(argv: list[str], log: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(argv, env={**os.environ, **environ}, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    folder = tmp_path / "services"
    folder.mkdir()
    config = folder / "sluice.toml"
    config.write_text(
        f'state_dir = "{folder}/state"\n[clusters.c]\nunix_user = "nobody"\nsession_root = "{folder}/sessions"\n'
        '[serve]\ntrusted_proxies = ["127.0.0.1"]\n'
    )
    ports, started = {number: free_port() for number in (8001, 8002, 8012, 8004)}, {}
    with ExitStack() as stack:
        for number, service in ((8001, "server"), (8002, "client"), (8012, "client")):
            argv = [sys.executable, "-m", "gateway.cli.main", "serve", service, "--port", str(ports[number])]
            given = {"SLUICE_CONFIG": str(config), "PATH": str(folder)}
            started[number] = stack.enter_context(a_process(argv, folder / f"{number}.log", **given))
            url = f"http://127.0.0.1:{ports[number]}/health/live"
            until(partial(answers, url), within=WITHIN, what=f"{service} answers")
        authority = Authority(folder)
        yield Services(folder, ports, load(folder / "state"), [started[8002], started[8012]], authority)


def text_of(file: str, services: Services, certificates: Path) -> tuple[str, int, int]:
    """A shipped configuration with free ports and these certificates; its ports for http and https."""
    text, plain, tls = (DEPLOY / file).read_text(), free_port(), free_port()
    for number, port in services.ports.items():
        assert f"127.0.0.1:{number}" in text
        text = text.replace(f"127.0.0.1:{number}", f"127.0.0.1:{port}")
    text = text.replace("/etc/ssl/sluice/", f"{certificates}/")
    text = re.sub(r"\b(listen|bind) :?80\b", rf"\1 127.0.0.1:{plain}", text)
    return re.sub(r"\b(listen|bind) :?443\b", rf"\1 127.0.0.1:{tls}", text), plain, tls


@contextmanager
def nginx(services: Services, folder: Path) -> Iterator[tuple[int, int]]:
    certificates = folder / "certificates"
    certificates.mkdir()
    for name in ("", "sessions-"):
        pair = services.authority.signs(f"{name}nginx", hosts=HOSTS)
        shutil.copy(pair.certificate, certificates / f"{name}fullchain.pem")
        shutil.copy(pair.key, certificates / f"{name}key.pem")
    text, plain, tls = text_of("nginx.conf", services, certificates)
    (folder / "sluice.conf").write_text(text)
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {places} include {folder}/sluice.conf; }}\n"
    )
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
    argv = [program, "-e", str(folder / "error.log"), "-c", str(main)]
    subprocess.run([*argv, "-t"], check=True, capture_output=True)
    with a_process(argv, folder / "log") as process:
        yield plain, tls
        process.send_signal(signal.SIGTERM)
        process.wait(WITHIN)


@contextmanager
def haproxy(services: Services, folder: Path) -> Iterator[tuple[int, int]]:
    certificates = folder / "certificates"
    certificates.mkdir()
    pair = services.authority.signs("haproxy", hosts=HOSTS)
    (certificates / "all.pem").write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    text, plain, tls = text_of("haproxy.cfg", services, certificates)
    text = text.replace("maxconn 20000", "maxconn 200")  # which needs no more open files than this process may have
    config = folder / "haproxy.cfg"
    config.write_text(text)
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") or "haproxy"
    subprocess.run([program, "-c", "-f", str(config)], check=True, capture_output=True)
    with a_process([program, "-db", "-f", str(config)], folder / "log") as process:
        yield plain, tls
        process.send_signal(signal.SIGTERM)
        process.wait(WITHIN)


@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_requests_go_through_it_to_both_processes_and_on_when_one_is_stopped(
    services: Services, tmp_path: Path, proxy: Callable[[Services, Path], AbstractContextManager[tuple[int, int]]]
) -> None:
    verify = ssl.create_default_context(cafile=services.authority.file)
    with proxy(services, tmp_path) as (plain, tls):
        base = f"https://127.0.0.1:{tls}"
        headers = {**services.auth, "Host": "sluice.example.org"}
        named: dict[str, str] = {"sni_hostname": "sluice.example.org"}
        with httpx.Client(base_url=base, headers=headers, verify=verify, timeout=60) as http:

            def get(path: str, **more: str) -> httpx.Response:
                return http.get(path, headers=more, extensions=named)

            def through() -> bool:
                try:
                    return get("/v1/models").status_code == 200
                except httpx.TransportError:
                    return False

            until(through, within=WITHIN, what="a request comes through")
            sent = httpx.get(f"http://127.0.0.1:{plain}/x", headers={"Host": "sluice.example.org"}, timeout=60)
            assert (sent.status_code, sent.headers["location"]) == (301, "https://sluice.example.org/x")
            before = {port: services.asked(port) for port in (8002, 8012)}

            def both() -> bool:
                return through() and all(services.asked(port) > count for port, count in before.items())

            until(both, within=WITHIN, what="both processes are asked")
            assert get("/api/v1/recipes").status_code == 200
            assert get("/v1/models", Authorization="Bearer wrong").status_code == 401
            told = get("/s/nobody/x")
            assert (told.status_code, told.headers["content-type"]) == (404, "application/problem+json")
            services.clients[1].send_signal(signal.SIGTERM)
            services.clients[1].wait(WITHIN)
            assert [get("/v1/models").status_code for _ in range(20)] == [200] * 20
