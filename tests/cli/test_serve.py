"""`sluice serve` as a process of its own: it starts, answers on its port, and ends well."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gateway.identity.local import load

WITHIN = 120


def settings(folder: Path) -> Path:
    file = folder / "sluice.toml"
    file.write_text(
        f'state_dir = "{folder}/state"\n[clusters.c]\nunix_user = "nobody"\nsession_root = "{folder}/sessions"\n'
    )
    return file


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its address once it serves. There is no Slurm on its PATH."""
    environ = {**os.environ, "SLUICE_CONFIG": str(settings(folder)), "PATH": str(folder)}
    command = [sys.executable, "-m", "gateway.cli.main", "serve", *arguments]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r'"port": (\d+).*"event": "serving"', line):
                yield process, f"http://127.0.0.1:{found[1]}"
                break
        else:
            pytest.fail("it did not start")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


PATHS = {
    "all": ("/", "/api/v1/recipes", "/api/v1/docs", "/v1/models", "/monitoring/metrics", "/metrics"),
    "server": ("/api/v1/recipes", "/metrics"),
    "client": ("/v1/models", "/metrics"),
    "monitoring": ("/monitoring/metrics", "/metrics"),
    "logs": ("/logs/openapi.json", "/metrics"),
}


@pytest.mark.parametrize("service", PATHS)
def test_a_service_answers_on_its_port_and_ends_well_on_sigterm(tmp_path: Path, service: str) -> None:
    with serving(tmp_path, service, "--port", "0") as (process, url):
        auth = {"Authorization": f"Bearer {load(tmp_path / 'state')}"}
        assert httpx.get(f"{url}/health/live", timeout=WITHIN).json() == {"status": "ok"}
        for path in PATHS[service]:
            assert httpx.get(f"{url}{path}", timeout=WITHIN).status_code == 401
            assert httpx.get(f"{url}{path}", headers=auth, timeout=WITHIN).status_code == 200
        lines = httpx.get(f"{url}/metrics", headers=auth, timeout=WITHIN).text.splitlines()
        assert 'sluice_http_requests_total{method="GET",route="/metrics",service="metrics",status="200"} 1.0' in lines
        assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
        assert ("sluice_proxy_connections 1.0" in lines) == (service in {"client", "all"})
        if service == "server":
            assert httpx.get(f"{url}/v1/models", headers=auth, timeout=WITHIN).status_code == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN) == 0


def test_a_stream_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    with serving(tmp_path, "all", "--port", "0") as (process, url):
        auth = {"Authorization": f"Bearer {load(tmp_path / 'state')}"}
        with httpx.stream("GET", f"{url}/api/v1/events", headers=auth, timeout=WITHIN) as response:
            lines = response.iter_lines()
            assert next(lines) == "retry: 1000"
            process.send_signal(signal.SIGTERM)
            assert list(lines) == [""]
        assert process.wait(WITHIN) == 0


def test_a_port_that_is_taken_is_said_plainly(tmp_path: Path) -> None:
    with serving(tmp_path, "logs", "--port", "0") as (_, url):
        port = url.rpartition(":")[2]
        environ = {**os.environ, "SLUICE_CONFIG": str(tmp_path / "sluice.toml")}
        command = [sys.executable, "-m", "gateway.cli.main", "serve", "server", "--port", port]
        second = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in second.stderr
    assert "Traceback" not in second.stderr
