"""One task of a job on several nodes: started by the launcher on its node, starts the container there, ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any, Optional

from . import container, errors
from .launch import node_name, task_command
from .places import Places, make_runtime, session_directory
from .processes import adopt_orphans, descendants, kill_all

_FORWARDED = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGALRM")


def run(path: str) -> int:
    """Run the task that the file describes; its exit code."""
    with open(path, encoding="utf-8") as file:
        task = json.load(file)
    spec = task["spec"]
    missing = container.lookup(spec["container"]["image"])
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
    process = subprocess.Popen(argv, env=environment, cwd=directory, start_new_session=True)
    for number in early:
        process.send_signal(number)
    code = errors.exit_code(process.wait())
    until = time.monotonic() + 2
    kill_all(descendants(os.getpid()), signal.SIGTERM)
    while descendants(os.getpid()) and time.monotonic() < until:
        time.sleep(0.05)
    kill_all(descendants(os.getpid()), signal.SIGKILL)
    return code
