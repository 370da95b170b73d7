"""vllm-router and LiteLLM between the load and the stub, as yardsticks.

They come from the package index, each into an environment of its own under the cache folder, which is kept.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

READY_WITHIN = 90.0
INSTALL_WITHIN = 900.0
_LITELLM = """\
model_list:
  - model_name: bench-stub
    litellm_params: {{model: openai/bench-stub, api_base: "http://{upstream}/v1", api_key: none}}
litellm_settings: {{telemetry: false}}
general_settings: {{dangerously_permit_weak_or_unset_master_key: true}}
"""


class Missing(Exception):
    """The peer cannot be had; the text says why."""


def cache() -> Path:
    """Where the peers' environments are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice" / "benchmarks"


@contextmanager
def vllm_router(upstream: str, folder: Path) -> Iterator[tuple[str, int]]:
    """The router before one worker (host:port); its address and process. Missing."""
    program = _installed("vllm-router", "vllm-router")
    port, metrics = free_port(), free_port()
    argv = [program, "--host", "127.0.0.1", "--port", str(port), "--worker-urls", f"http://{upstream}"]
    argv += ["--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(metrics)]
    argv += ["--max-concurrent-requests", "4096"]
    with _running(argv, folder / "vllm-router.log", f"http://127.0.0.1:{port}", "/health") as served:
        yield served


@contextmanager
def litellm(upstream: str, folder: Path) -> Iterator[tuple[str, int]]:
    """LiteLLM's proxy with one worker; its address and process. Missing."""
    program = _installed("litellm", "litellm[proxy]")
    config, port = folder / "litellm.yaml", free_port()
    config.write_text(_LITELLM.format(upstream=upstream))
    argv = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with _running(argv, folder / "litellm.log", f"http://127.0.0.1:{port}", "/health/liveliness") as served:
        yield served


def _installed(name: str, requirement: str) -> str:
    """The program of a package, installed once, as pip is configured on this machine. Missing."""
    home = cache() / name
    program = home / "bin" / name
    if program.exists():
        return str(program)
    print(f"installing {requirement} in {home} ...", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
    try:
        for argv in ([sys.executable, "-m", "venv", str(home)], pip):
            subprocess.run(argv, check=True, capture_output=True, text=True, timeout=INSTALL_WITHIN)
    except subprocess.TimeoutExpired as error:
        shutil.rmtree(home, ignore_errors=True)
        raise Missing("its installation took too long") from error
    except subprocess.CalledProcessError as error:
        shutil.rmtree(home, ignore_errors=True)
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        raise Missing(f"it cannot be installed: {lines[-1] if lines else error}") from error
    if not program.exists():
        raise Missing(f"{requirement} has no program {name}")
    return str(program)


@contextmanager
def _running(argv: Sequence[str], log: Path, url: str, path: str) -> Iterator[tuple[str, int]]:
    with log.open("wb") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file, start_new_session=True)
    try:
        _until_ready(process, f"{url}{path}", log)
        yield url, process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + READY_WITHIN
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - our own address
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
        else:
            return
    lines = log.read_text(errors="replace").strip().splitlines()
    raise Missing(f"it did not start: {lines[-1] if lines else 'without a word'}")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
