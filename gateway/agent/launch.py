"""How a payload is started: Apptainer here, or a launcher that starts it as several tasks, also on other nodes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple

from . import container, limits
from .inside import Entry

if TYPE_CHECKING:
    from .places import Places
    from .processes import Payload

Spec = Mapping[str, Any]

#: The variable that marks every process of a job on its first node: its runtime directory there.
RUNTIME = "SLUICE_RUNTIME"
#: The first line on the tasks' standard input. Signal numbers follow, one a line; the end of it is the agent's end.
HELLO = b"hello\n"


class Launch:
    """One start. `values`: the recipe's variables and the secrets; `own`: the SLUICE_ variables of this kind of job."""

    def __init__(self, spec: Spec, places: Places, values: Mapping[str, str], own: Mapping[str, str]) -> None:
        self._spec = spec
        self._places = places
        self._values = values
        self._own = {
            "SLUICE_SESSION": str(spec["session"]),
            "SLUICE_ATTEMPT": str(spec["attempt"]),
            "SLUICE_HEAD_NODE": node_name(),
            RUNTIME: places.runtime,
            **own,
        }
        self._task_file = os.path.join(places.session, f"task-{spec['attempt']}.json")
        self._orders: Optional[int] = None
        self._program = os.path.join(places.session, f"agent-{spec['attempt']}.pyz")

    @property
    def launched(self) -> bool:
        """Whether a launcher starts tasks, in place of one container here."""
        return bool(self._spec["launcher"])

    def _prepare(self) -> Tuple[List[str], Dict[str, str]]:
        """The argument list and the environment to start with."""
        if not self.launched:
            return task_command(self._spec, self._places, self._values, self._own)
        self._own = {**self._own, "SLUICE_HEAD_PORT": str(limits.free_port(""))}
        # Through a file of the user's, not through the launcher: srun would carry the secrets over Slurm's wires.
        task = {
            "spec": {**self._spec, "client_ca": ""},
            "values": dict(self._values),
            "own": self._own,
            "node": node_name(),
            "runtime": self._places.runtime,
        }
        self.forget()
        descriptor = os.open(self._task_file, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(task, file)
        shutil.copyfile(os.path.abspath(sys.argv[0]), self._program)
        argv = [*self._spec["launcher"], sys.executable, "-I", "-X", "utf8", self._program, "task", self._task_file]
        return argv, dict(os.environ)

    def one_more(self, argv: Sequence[str], environment: Mapping[str, str]) -> Entry:
        """How one more program is started in a container like those of this start, with this over its variables."""
        spec = {**self._spec, "container": {**self._spec["container"], "command": list(argv), "script": None}}
        return Entry(*task_command(spec, self._places, {**self._values, **environment}, self._own), joined=False)

    def forget(self) -> None:
        """Every task has started, or none will: the file with their environment goes."""
        for path in (self._task_file, self._program):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        if self.launched:
            shutil.rmtree(f"{self._task_file}.read", ignore_errors=True)

    def start(self, payload: Payload, output: int) -> int:
        """Start it, both outputs to the descriptor `output`; its process session. OSError if it cannot be started."""
        argv, environment = self._prepare()
        if not self.launched:
            return payload.start(argv, environment, self._places.work, output, subprocess.DEVNULL)
        reader, self._orders = os.pipe()
        try:
            self._order(HELLO)
            return payload.start(argv, environment, self._places.work, output, reader)
        finally:
            os.close(reader)

    def signal(self, payload: Payload, number: int) -> None:
        """Signal the program. Tasks are told over their standard input.

        Slurm signals every process of a step, also those that serve the image's files (squashfuse), and srun answers
        SIGTERM by killing its tasks: either would take the ground from under a program that is to end in order.
        """
        if self._orders is None or os.path.basename(self._spec["launcher"][0]) != "srun":
            payload.signal(number)
        else:
            self._order(b"%d\n" % number)

    def _order(self, line: bytes) -> None:
        if self._orders is not None:
            with contextlib.suppress(OSError):  # srun is gone, and the tasks with it
                os.write(self._orders, line)


def task_command(
    spec: Spec, places: Places, values: Mapping[str, str], own: Mapping[str, str]
) -> Tuple[List[str], Dict[str, str]]:
    """The Apptainer command of one task on this node, with its environment."""
    payload = container.payload(spec, places, values)
    environment = container.environment(os.environ, values, own)
    environment.setdefault("APPTAINER_TMPDIR", places.tmp)
    return container.command(spec, places, payload), environment


def node_name() -> str:
    """The name of this node as Slurm has it, so that the other nodes of the job can find it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
