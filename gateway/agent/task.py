"""One task of a job on several nodes: started by the launcher on its node, starts the container there, ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Optional

from . import errors, image
from .launch import HELLO, node_name, task_command
from .places import Places, make_runtime, session_directory
from .processes import adopt_orphans, descendants, kill_all

_FORWARDED = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGALRM")
_PATIENCE = 5.0


def run(path: str) -> int:
    """Run the task that the file describes; its exit code."""
    with open(path, encoding="utf-8") as file:
        task = json.load(file)
    _forget_if_last(path)
    spec = task["spec"]
    missing = image.lookup(spec["container"]["image"])
    if missing is not None:
        sys.stderr.write(f"sluice: {node_name()}: {missing}\n")
        return errors.IMAGE_MISSING
    with_agent = node_name() == task["node"] and os.path.isdir(task["runtime"])
    runtime = task["runtime"] if with_agent else make_runtime()
    places = Places(session_directory(spec["directory"]), spec["attempt"], runtime)
    if not with_agent:
        places.open_runtime()
    try:
        return _supervise(*task_command(spec, places, task["values"], task["own"]), places.work)
    finally:
        if not with_agent:
            places.remove_runtime()


def _forget_if_last(path: str) -> None:
    """Every task has read the file once the last has, and it may hold secrets: then it goes.

    On a file system whose listings lag, no task may see that it is the last. The agent removes it later.
    """
    marks, rank = f"{path}.read", os.environ.get("SLURM_PROCID", "0")
    total = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS", "")
    with contextlib.suppress(OSError):
        os.makedirs(marks, exist_ok=True)
        os.close(os.open(os.path.join(marks, rank), os.O_CREAT | os.O_WRONLY, 0o600))
        if total.isdigit() and len(os.listdir(marks)) >= int(total):
            os.unlink(path)


def _supervise(argv: "list[str]", environment: "dict[str, str]", directory: str) -> int:
    adopt_orphans()
    process: Optional[subprocess.Popen[bytes]] = None
    early = []

    def forward(number: int, _frame: Any) -> None:
        if process is None:
            early.append(number)
        elif process.returncode is None:
            process.send_signal(number)

    for name in _FORWARDED:
        signal.signal(getattr(signal, name), forward)
    process = subprocess.Popen(argv, env=environment, cwd=directory, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_obey, args=(process,), daemon=True).start()
    for number in early:
        process.send_signal(number)
    code = errors.exit_code(process.wait())
    until = time.monotonic() + 2
    kill_all(descendants(os.getpid()), signal.SIGTERM)
    while descendants(os.getpid()) and time.monotonic() < until:
        time.sleep(0.05)
    kill_all(descendants(os.getpid()), signal.SIGKILL)
    return code


def _obey(process: "subprocess.Popen[bytes]") -> None:
    """Pass on the signals that the agent orders on our standard input. Its end is the agent's: then nothing goes on."""
    orders = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115  # sys.stdin has a lock that holds up our exit
    if orders.readline() != HELLO:
        return  # a launcher that does not pass the input on: it is signalled itself
    for line in orders:
        if process.poll() is None:
            process.send_signal(int(line))
    if process.poll() is None:
        process.terminate()
        time.sleep(_PATIENCE)
        process.kill()
