"""The program that speaks to Slurm by pyslurm, in a process of its own: libslurm can end it, and nothing else.

It is sent whole to the Python that has pyslurm, which need not have Sluice: only the standard library and pyslurm are
used, and nothing of the package around it. One JSON line in, one out:

    → {"do": "jobs", "seconds": 30, "ids": [7]}
    ← {"answer": {"7": {...}}}   or   {"error": {"number": 2017, "words": "Invalid job id specified"}}

Its first lines, before any question: {"stage": "import"}, {"stage": "configuration"}, then {"ready": {...}}, or
{"unusable": kind, "words": ...} and it ends. Whatever libslurm prints goes to stderr.
Never called: what needs no explicit environment in a submit (ignored there), and `get_resource_layout_per_node`, which
ends the process with SIGSEGV.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAY = 5
_SLURMS_OWN = 1000  # errors below are the system's
GRACE = 5  # seconds after which the kernel ends a call that the gateway, gone by then, no longer can


class Unsent(Exception):
    """pyslurm itself refused: nothing was sent."""


def main() -> int:
    """Answer until stdin ends."""
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="ascii")
    os.dup2(2, 1)  # a library that prints must not break the protocol

    def tell(value: dict[str, Any]) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    if os.geteuid() == 0:
        tell({"unusable": "root", "words": "libslurm acts as who runs it, and this would be root"})
        return 1
    tell({"stage": "import"})
    os.environ["PYSLURM_DISABLE_AUTO_INIT"] = "1"
    try:
        import pyslurm  # noqa: PLC0415 - its absence is an answer
    except ModuleNotFoundError as error:
        kind = "missing" if error.name == "pyslurm" else "library"
        tell({"unusable": kind, "words": str(error)})
        return 1
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        tell({"unusable": "library", "words": f"{type(error).__name__}: {error}"})
        return 1
    year, month, patch = pyslurm.slurm_api_version()  # of the headers that it was compiled with
    built = f"{year:02d}.{month:02d}"
    found = library_api()
    if found is not None and found != api_of(built):
        words = f"pyslurm was built for Slurm {built}, and the libslurm found here is that of {release_of(found)}"
        tell({"unusable": "version", "words": words})
        return 1
    named = os.environ.get("SLURM_CONF")
    if named and not os.path.isfile(named):  # noqa: PTH113 - libslurm would wait a minute for it
        tell({"unusable": "configuration", "words": f"there is no file {named}, which SLURM_CONF names"})
        return 1
    tell({"stage": "configuration"})
    pyslurm.slurm_init()  # a libslurm without slurm.conf ends the process here
    who = pwd.getpwuid(os.getuid()).pw_name
    tell({"ready": {"pyslurm": pyslurm.__version__, "libslurm": f"{built}.{patch}", "user": who}})
    slurm = Slurm(pyslurm)
    for line in sys.stdin.buffer:
        question = json.loads(line.decode())
        signal.alarm(int(question.pop("seconds")) + GRACE)
        tell(slurm.answer(question.pop("do"), question))
        signal.alarm(0)
    return 0


def api_of(release: str) -> int:
    """The number of libslurm's interface in a release: 24.05 is 41, and one more every half year. Pure."""
    year, month = (int(part) for part in release.split("."))
    return 41 + 2 * (year - 24) + (month > _MAY)


def release_of(api: int) -> str:
    """The other way round. Pure."""
    return f"{24 + (api - 41) // 2:02d}.{11 if (api - 41) % 2 else 5:02d}"


def library_api() -> int | None:
    """The number of the interface of the libslurm that was loaded; None if it does not tell."""
    try:
        tell = ctypes.CDLL(None).slurm_api_version
    except AttributeError:
        return None
    tell.restype = ctypes.c_long
    return int(tell()) >> 16


class NoProfile:
    """No kind of profiling, as pyslurm must be told it: its own nothing turns all kinds on."""

    def __iter__(self) -> Iterator[str]:
        return iter(())


class Slurm:
    """What can be asked. Every method is one kind of question; its arguments are the question's."""

    KINDS = frozenset(
        ("submit", "jobs", "accounting", "queue", "end", "inventory", "info", "outbox", "configuration", "associations")
    )

    def __init__(self, pyslurm: Any) -> None:
        self.pyslurm = pyslurm

    def answer(self, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            if kind not in self.KINDS:
                return {"error": {"number": None, "words": f"no such question: {kind}", "unsent": True}}
            return {"answer": getattr(self, kind)(**arguments)}
        except self.pyslurm.RPCError as error:
            return {"error": {"number": error.errno, "words": str(error.msg)}}
        except Unsent as error:
            return {"error": {"number": None, "words": str(error), "unsent": True}}
        except Exception as error:  # noqa: BLE001 - a fault of pyslurm's or ours is told, and ends nothing
            return {"error": {"number": None, "words": f"{type(error).__name__}: {error}"}}

    def submit(self, script: str, environment: dict[str, str], options: dict[str, Any]) -> int:
        try:
            job = self.pyslurm.JobSubmitDescription(
                script=script, environment=environment, profile_types=NoProfile(), **options
            )
            return int(job.submit())
        except (ValueError, TypeError, AttributeError, OverflowError) as error:  # raised before the message is made
            raise Unsent(str(error)) from error

    def jobs(self, ids: list[int]) -> dict[int, dict[str, Any]]:
        """Those of these jobs that the queue has. pyslurm loads one with its steps: two messages, 2 ms."""
        found: dict[int, dict[str, Any]] = {}
        astray: set[int] = set()  # arrays: Slurm tells all their tasks, and pyslurm the first of these
        for number in ids:
            try:
                job = self.pyslurm.Job.load(number)
            except self.pyslurm.RPCError as error:
                if error.errno != self.pyslurm.ESLURM_INVALID_JOB_ID:
                    raise
                continue
            except KeyError:  # it looks for steps of the array, where there are only those of its tasks
                astray.add(number)
                continue
            if job.id == number:
                found[number] = queue_row(job)
            else:
                astray.add(number)
        if astray:
            found.update({job.id: queue_row(job) for job in self.pyslurm.Jobs.load().values() if job.id in astray})
        in_doubt = [number for number, row in found.items() if ambiguous(row)]
        codes = self.exit_codes(in_doubt)
        for number in in_doubt:
            found[number]["raw_exit"] = codes.get(number)
        return found

    def accounting(
        self, ids: Sequence[int] = (), names: Sequence[str] = (), users: Sequence[str] = (), since: int = 0
    ) -> list[dict[str, Any]]:
        """What slurmdbd knows of these jobs; or of those of the users (with these names) that lived since then."""
        db = self.pyslurm.db
        if ids:
            wanted = db.JobFilter(ids=list(ids), start_time=int(since))
        else:
            known = [user for user in users if uid_of(user) is not None]
            if not known:
                return []
            wanted = db.JobFilter(names=list(names) or None, users=known, start_time=int(since))
        rows = [accounting_row(job) for job in db.Jobs.load(wanted).values()]
        codes = self.exit_codes([row["id"] for row in rows if ambiguous(row)])
        for row in rows:
            row["raw_exit"] = codes.get(row["id"])
        return rows

    def exit_codes(self, ids: list[int]) -> dict[int, int]:
        """Exit codes as Slurm keeps them: elsewhere pyslurm takes 128 off those that are 128 or more."""
        if not ids or not hasattr(self.pyslurm, "slurmdb_jobs"):
            return {}
        try:
            told = self.pyslurm.slurmdb_jobs().get(jobids=list(ids))
        except (ValueError, self.pyslurm.RPCError):  # accounting does not answer: pyslurm's reading must do
            return {}
        ended = (row for row in told.values() if row["end"])
        return {row["jobid"]: row["exitcode"] for row in ended}

    def queue(self, users: list[str], names: Sequence[str] = (), prefix: str = "") -> list[dict[str, Any]]:
        """The queue's jobs of the users, by name or its beginning. libslurm cannot be asked that: this reads it all."""
        uids, wanted = frozenset(uid_of(user) for user in users) - {None}, frozenset(names)
        found: list[dict[str, Any]] = []
        if not uids:
            return found
        for job in self.pyslurm.Jobs.load().values():
            if job.user_id in uids:
                name = text(job, "name")
                if name in wanted or (prefix and name.startswith(prefix)):
                    found.append(queue_row(job))
        codes = self.exit_codes([row["id"] for row in found if ambiguous(row)])
        for row in found:
            row["raw_exit"] = codes.get(row["id"])
        return found

    def end(self, number: int, batch: bool) -> bool:
        """SIGTERM to the batch script alone, or the end of the whole job. True where there was something to end."""
        job = self.pyslurm.Job(number)
        forget_errno()
        try:
            if batch:
                job.send_signal("SIGTERM", steps="batch")
            else:
                job.cancel()
        except self.pyslurm.RPCError as error:
            # pyslurm reads errno, which a call that went well may leave as any call of the system did
            if not 0 < error.errno < _SLURMS_OWN:
                raise
            if not batch and self.goes_on(number):
                raise
        return True

    def goes_on(self, number: int) -> bool:
        row = self.jobs([number]).get(number)
        return row is not None and row["state"] in ("PENDING", "RUNNING", "SUSPENDED")

    def inventory(self) -> dict[str, Any]:
        nodes = [node_row(node) for node in self.pyslurm.Nodes.load().values()]
        partitions = [partition_row(part) for part in self.pyslurm.Partitions.load().values()]
        return {"nodes": nodes, "partitions": partitions}

    def info(self) -> dict[str, Any]:
        config = self.pyslurm.slurmctld.Config.load()
        return {"cluster": config.cluster_name, "version": config.version}

    def outbox(self) -> dict[str, Any]:
        """Whether there is accounting, and how much slurmctld has not told it yet."""
        config = self.pyslurm.slurmctld.Config.load()
        waiting = self.pyslurm.slurmctld.diag().dbd_agent_queue_size
        return {"storage": config.accounting_storage_type or "", "waiting": waiting}

    def configuration(self) -> dict[str, Any]:
        """By pyslurm's names, and the time there."""
        config = self.pyslurm.slurmctld.Config.load()
        now = self.pyslurm.slurmctld.diag().request_time
        groups = (config.to_dict(), config.cgroup_config.to_dict() if config.cgroup_config else {})
        plain = (str, int, float, bool, list, type(None))
        values = [{key: value for key, value in group.items() if isinstance(value, plain)} for group in groups]
        return {"values": values[0], "cgroup": values[1], "now": now or int(time.time())}

    def associations(self, user: str) -> list[dict[str, Any]]:
        wanted = self.pyslurm.db.AssociationFilter(users=[user])
        told = self.pyslurm.db.Associations.load(wanted).values()
        return [
            {
                "cluster": row.cluster,
                "account": row.account,
                "partition": row.partition,
                "qos": [str(getattr(qos, "name", qos)) for qos in row.qos or ()],
                "default": bool(row.is_default),
            }
            for row in told
            if row.user == user
        ]


def uid_of(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def forget_errno() -> None:
    """Put errno to 0, so that what is read after a call is that call's."""
    where = ctypes.CDLL(None).__errno_location  # noqa: SLF001 - so glibc calls it
    where.restype = ctypes.POINTER(ctypes.c_int)
    where()[0] = 0


def ambiguous(row: dict[str, Any]) -> bool:
    """An end whose exit code pyslurm may have changed."""
    return row["state"] not in ("PENDING", "RUNNING", "SUSPENDED", "COMPLETED") and not row["exit_signal"]


def text(thing: Any, attribute: str) -> str:
    """A text that a user may have chosen; what is no UTF-8 is nothing of ours."""
    try:
        return getattr(thing, attribute) or ""
    except UnicodeDecodeError:
        return ""


def queue_row(job: Any) -> dict[str, Any]:
    return row_of(job, job.allocated_nodes)


def accounting_row(job: Any) -> dict[str, Any]:
    return row_of(job, job.nodelist)


def row_of(job: Any, nodes: str | None) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": text(job, "name"),
        "user": job.user_name or "",
        "state": job.state,
        "reason": text(job, "state_reason"),
        "nodes": nodes or "",
        "exit_code": job.exit_code,
        "exit_signal": job.exit_code_signal,
        "raw_exit": None,
        "comment": text(job, "comment"),
        "extra": text(job, "extra"),
        "restarts": job.requeue_count,
        "submitted": job.submit_time,
        "started": job.start_time,
        "ended": job.end_time,
        "limit": job.time_limit,
    }


def node_row(node: Any) -> dict[str, Any]:
    return {
        "name": node.name,
        "address": node.address or "",
        "state": node.state or "",
        "reason": text(node, "reason"),
        "partitions": list(node.partitions),
        "cpus": node.effective_cpus or node.total_cpus,
        "alloc_cpus": node.allocated_cpus,
        "real_memory": node.real_memory,
        "alloc_memory": node.allocated_memory,
        "gres": gres(node.configured_gres),
        "gres_used": gres(node.allocated_gres),
        "features": list(node.active_features or node.available_features),
    }


def gres(counts: dict[str, int] | None) -> str:
    return ",".join(f"{name}:{count}" for name, count in (counts or {}).items())


def partition_row(part: Any) -> dict[str, Any]:
    return {
        "name": part.name,
        "state": part.state or "",
        "default": bool(part.is_default),
        "max_time": part.max_time,
        "default_time": part.default_time,
        "nodes": part.nodes or "",
        "total_nodes": part.total_nodes,
        "total_cpus": part.total_cpus,
    }


if __name__ == "__main__":
    sys.exit(main())
