"""The Apptainer command of a payload and the environment it is started with."""

from __future__ import annotations

import os
import re
from typing import Any, Dict, List, Mapping, Sequence

from .places import Places, home

Spec = Mapping[str, Any]

WORK = "/session"
HOME = "/home/sluice"
RUN = "/run/sluice"
SOCKET = RUN + "/service.sock"

_GPU = {"none": [], "nvidia": ["--nv"], "amd": ["--rocm"]}
#: What of the job's environment the payload sees: where it runs in the job, and which devices are its own.
_PASSED_PREFIXES = ("SLURM_", "SLURMD_NODENAME", "CUDA_", "PMI")
_PASSED = frozenset(
    ("GPU_DEVICE_ORDINAL", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "OMP_NUM_THREADS", "TZ")
)
_NEVER_PASSED = frozenset(("SLURM_JWT",))  # a Slurm token is for the agent's scontrol, not for the payload
#: Settings of the user's that would change what Apptainer does.
_STRIPPED_PREFIXES = ("APPTAINER", "SINGULARITY")
_KEPT = frozenset(("APPTAINER_CACHEDIR", "APPTAINER_CONFIGDIR", "APPTAINER_TMPDIR"))

#: Apptainer writes variables into a shell script of its own, and there loses carriage returns and breaks at some
#: characters beyond ASCII (U+0080 ends its quotes), so these go another way.
_PLAIN = re.compile(r"[\t\n -~]*")
_ENV_FILE = "env.sh"
_SCRIPT = "script"
#: Runs the script that is $1 by the best shell of the image.
_BY_SHELL = 'if [ -x /bin/bash ]; then exec /bin/bash "$1"; fi; exec /bin/sh "$1"'


def command(spec: Spec, places: Places, payload: Sequence[str]) -> List[str]:
    """The argument list that runs `payload` in the spec's image."""
    box = spec["container"]
    argv = ["apptainer", "--quiet", "exec", "--cleanenv", "--no-eval", "--pwd", WORK]
    if spec["launcher"]:
        # Tasks of one node share the node's /dev/shm and see each other's processes: that is how they exchange data.
        argv += ["--no-mount", "tmp,cwd"]
    else:
        # With a process namespace of its own, everything in the container ends with its first process.
        argv += ["--contain", "--pid"]
    argv += _GPU[box["gpu"]]
    argv += ["--home", f"{places.home}:{HOME}"]
    argv += _mount(places.work, WORK) + _mount(places.shared, RUN)
    argv += _mount(places.tmp, "/tmp") + _mount(places.var_tmp, "/var/tmp")  # noqa: S108
    for bind in box["binds"]:
        argv += _mount(_source(bind), bind["target"], read_only=bind["read_only"])
    return [*argv, box["image"], *payload]


def payload(spec: Spec, places: Places, values: Mapping[str, str]) -> List[str]:
    """What runs in the container. Writes the files that it needs into the runtime directory.

    `values` are the variables that the recipe and its secrets give. Those that are more than plain text travel in a
    file that a shell in the container reads.
    """
    box = spec["container"]
    if box["script"] is None:
        argv = list(box["command"])
    else:
        _write(os.path.join(places.shared, _SCRIPT), box["script"], 0o700)
        argv = [*_interpreter(box["script"]), f"{RUN}/{_SCRIPT}"]
    special = {name: value for name, value in values.items() if not _PLAIN.fullmatch(value)}
    if special:
        lines = [f"export {name}={_quote(value)}\n" for name, value in sorted(special.items())]
        _write(os.path.join(places.shared, _ENV_FILE), "".join(lines) + 'exec "$@"\n', 0o600)
        argv = ["/bin/sh", f"{RUN}/{_ENV_FILE}", *argv]
    return argv


def environment(outer: Mapping[str, str], values: Mapping[str, str], own: Mapping[str, str]) -> Dict[str, str]:
    """The environment of the Apptainer process.

    `outer`: the job's; `values`: the recipe's variables and secrets; `own`: the SLUICE_ ones. Values go by
    APPTAINERENV_NAME: an option would show them in the process list, and splits them at commas.
    """
    kept = {name: value for name, value in outer.items() if name in _KEPT or not name.startswith(_STRIPPED_PREFIXES)}
    inner = {name: value for name, value in outer.items() if passed(name)}
    inner.update({name: value for name, value in values.items() if _PLAIN.fullmatch(value)})
    inner.update(own)
    kept.update({f"APPTAINERENV_{name}": value for name, value in inner.items()})
    return kept


def passed(name: str) -> bool:
    """Whether this variable of the job reaches the payload."""
    if name in _NEVER_PASSED:
        return False
    return name in _PASSED or name.startswith(_PASSED_PREFIXES)


def _source(bind: Mapping[str, Any]) -> str:
    """What is mounted. Of a volume the place itself, so that no link in it leads out of its root."""
    source = os.path.join(home(), bind["source"])
    if bind.get("below") is None:
        return source
    root = os.path.realpath(os.path.join(home(), bind["below"]))
    place = os.path.realpath(source)
    if place != root and not place.startswith(root.rstrip("/") + "/"):
        raise ValueError(f"the volume at {bind['target']} leads out of its root: {place} is not below {root}")
    if not bind["read_only"]:
        os.makedirs(place, mode=0o770, exist_ok=True)
    return place


def _mount(source: str, target: str, *, read_only: bool = False) -> List[str]:
    fields = ["type=bind", _field("src", source), _field("dst", target)]
    if read_only:
        fields.append("ro")
    return ["--mount", ",".join(fields)]


def _field(name: str, value: str) -> str:
    """One field of --mount, which is a line of CSV."""
    if any(sign in value for sign in "\r\n\0"):
        raise ValueError(f"a path with a line break cannot be mounted: {value!r}")
    escaped = value.replace('"', '""')
    return f'"{name}={escaped}"'


def _interpreter(script: str) -> List[str]:
    """The program for a script, from its `#!` line as the kernel reads it; works where nothing may be executed."""
    first = script.split("\n", 1)[0]
    words = first[2:].strip().split(None, 1) if first.startswith("#!") else []
    return words or ["/bin/sh", "-c", _BY_SHELL, "sh"]


def _quote(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def _write(path: str, text: str, mode: int) -> None:
    """Whole or not at all: other tasks of the node write the same file."""
    written = f"{path}.{os.getpid()}"
    descriptor = os.open(written, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
    with open(descriptor, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    os.replace(written, path)
