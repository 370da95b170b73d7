"""The tiny job of `sluice doctor --job`: which programs a node has, and whether the gateway reaches a port there."""

import asyncio
import shlex
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from gateway.core.ports import Files, Net, Scheduler
from gateway.errors import NotFound, Unavailable
from gateway.model import doctor
from gateway.model.doctor import Finding, JobReport, ok, problem, skipped, warning
from gateway.model.job import JobOptions, JobScript, SeenJob
from gateway.settings import ClusterSettings

PATIENCE: Final = 60.0
_BETWEEN: Final = 0.5
_MEMORY: Final = 200
_MINUTES: Final = 2

# The address is chosen as the agent chooses it; one visitor is waited for and told the mark, then it is over.
_SCRIPT: Final = r"""#!/bin/bash
umask 077
cd ~ && mkdir -p @FOLDER@ && cd @FOLDER@ || exit 1
first() { "$@" 2>/dev/null | head -n 1; }
{
  echo "node=${SLURMD_NODENAME:-$(hostname)}"
  echo "python3=$(first python3 -c 'import platform; print(platform.python_version())')"
  echo "openssl=$(first openssl version)"
  echo "apptainer=$(first apptainer --version)"
} > @NAME@.new
command -v python3 > /dev/null || { mv @NAME@.new @NAME@; exit 0; }
exec python3 - @NAME@ @MARK@ <<'PYTHON'
import os, socket, sys
name, mark = sys.argv[1:]
def addresses():
    for host in (os.environ.get("SLURMD_NODENAME"), socket.gethostname()):
        try:
            found = socket.getaddrinfo(host or "", None, type=socket.SOCK_STREAM)
        except OSError:
            continue
        for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET):
            if not entry[4][0].startswith(("127.", "::1", "fe80:", "0.")):
                yield entry[0], entry[4][0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))
        yield socket.AF_INET, sock.getsockname()[0]
family, address = next(addresses())
with socket.socket(family) as sock:
    sock.bind((address, 0))
    sock.listen()
    sock.settimeout(60)
    with open(name + ".new", "a") as file:
        file.write("address=%s\nport=%d\n" % sock.getsockname()[:2])
    os.rename(name + ".new", name)
    visitor, _ = sock.accept()
    visitor.sendall(mark.encode())
    visitor.close()
PYTHON
"""


def script(settings: ClusterSettings, mark: str) -> JobScript:
    """The job, as it is sent."""
    text = _SCRIPT
    for word, value in (("@FOLDER@", _folder(settings)), ("@NAME@", _name(mark)), ("@MARK@", mark)):
        text = text.replace(word, shlex.quote(value))
    options = JobOptions(
        name=f"sluice-doctor-{mark}",
        partition=settings.default_partition,
        account=settings.account,
        qos=settings.qos,
        time_limit=_MINUTES,
        memory=_MEMORY,
    )
    return JobScript(options=options, text=text)


async def run(
    scheduler: Scheduler, files: Files, net: Net, settings: ClusterSettings, mark: str, *, patience: float = PATIENCE
) -> Sequence[Finding]:
    """Submit, wait at most `patience` seconds for its report, and call it. Whatever comes, nothing of it is left."""
    user, path = settings.user, f"{_folder(settings)}/{_name(mark)}"
    loop = asyncio.get_running_loop()
    began = loop.time()
    job_id = await scheduler.submit(script(settings, mark), user)
    try:
        while True:
            seen = (await scheduler.look([job_id])).get(job_id)
            report = await _read(files, user, path)  # after the look: an ended job has written what it will
            waited = loop.time() - began
            if report is not None:
                break
            if (seen is not None and seen.state.ended) or waited > patience:
                return _no_report(job_id, seen, waited)
            await asyncio.sleep(_BETWEEN)
        began_well = ok("job", f"Job {job_id} ran on {report.node} and was seen within {waited:.0f} s.")
        return [began_well, doctor.programs(report), await _call(net, report, mark)]
    finally:
        await scheduler.cancel(job_id, user)
        for name in (path, f"{path}.new"):
            await files.remove(user, name)


def _no_report(job_id: int, seen: SeenJob | None, waited: float) -> list[Finding]:
    rest = [skipped(check, "The job told nothing, see `job`.") for check in ("programs", "job path")]
    if seen is not None and seen.state.value == "PENDING":
        words = f"Job {job_id} did not start within {waited:.0f} s ({seen.reason or 'no reason given'})."
        return [
            warning("job", words, "Try again when the partition has room, or set another default_partition."),
            *rest,
        ]
    state = seen.state.value if seen is not None else "not known to Slurm"
    words = f"Job {job_id} is {state} and left no report in the session folder."
    advice = "Is the session folder on the nodes the same as on the login node, and writable by the user there?"
    return [problem("job", words, advice), *rest]


async def _read(files: Files, user: str, path: str) -> JobReport | None:
    try:
        text = (await files.read(user, path)).decode(errors="replace")
    except NotFound:
        return None
    pairs = (line.partition("=") for line in text.splitlines())
    try:
        return JobReport.model_validate({key: value for key, _, value in pairs})
    except ValidationError as error:
        raise Unavailable(f"the job's report cannot be read: {text[:200]!r}") from error


async def _call(net: Net, report: JobReport, mark: str) -> Finding:
    if not report.port:
        return skipped("job path", "Without python3 on the node nothing listens there.")
    where = f"{report.address}:{report.port} on {report.node}"
    advice = "Let TCP connections from this machine to the nodes through, on all unprivileged ports."
    try:
        heard = await net.dial(report.address, report.port, read=len(mark))
    except TimeoutError:
        return problem("job path", f"Nothing comes back from {where}.", advice)
    except OSError as error:
        return problem("job path", f"{where} is not reached: {error.strerror or error}.", advice)
    if heard != mark.encode():
        return problem("job path", f"Something else than the job answers at {where}.", advice)
    return ok("job path", f"The gateway reached the job at {where}.")


def _folder(settings: ClusterSettings) -> str:
    return settings.session_root.removeprefix("~/").rstrip("/")


def _name(mark: str) -> str:
    return f".sluice-doctor-{mark}.job"
