"""nginx between the load and the stub, as a yardstick: the one on the PATH, or Debian's package in a folder."""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READY_WITHIN = 10.0
CONFIG = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    upstream stub {{ server {upstream}; keepalive 1024; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://stub;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


@contextmanager
def nginx(upstream: str, folder: Path) -> Iterator[tuple[str, int] | None]:
    """One worker before `upstream` (host:port); its address and process, or None where there is no nginx to be had."""
    program = shutil.which("nginx") or _unpacked(folder)
    if program is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, upstream=upstream, port=port))
    process = subprocess.Popen([program, "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(config)])
    url = f"http://127.0.0.1:{port}"
    try:
        _until_ready(url)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def _unpacked(folder: Path) -> str | None:
    """Debian's package, fetched by apt and unpacked, not installed."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return None
    fetched = subprocess.run(["apt-get", "-q", "download", "nginx"], cwd=folder, capture_output=True, check=False)
    packages = list(folder.glob("nginx_*.deb"))
    if fetched.returncode or not packages:
        return None
    subprocess.run(["dpkg", "-x", packages[0].name, "root"], cwd=folder, check=True)
    return str(folder / "root/usr/sbin/nginx")


def _until_ready(url: str) -> None:
    end = time.monotonic() + READY_WITHIN
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - our own address
        except urllib.error.HTTPError:
            return
        except urllib.error.URLError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("nginx did not start")
