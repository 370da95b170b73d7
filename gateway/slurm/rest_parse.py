"""slurmrestd's JSON ⇄ our values, v0.0.41 to v0.0.45. Pure."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from gateway.model.inventory import Inventory, Node, Partition
from gateway.model.job import JobScript, SeenJob
from gateway.slurm import gres, states, times

# What a job finds in its environment: nothing of ours, and nothing secret.
PATH: Final = "/usr/local/bin:/usr/bin:/bin"

# A node with one of these starts nothing now, whatever its base state.
_CLOSED: Final = frozenset(
    {
        "BLOCKED",
        "DOWN",
        "DRAIN",
        "DYNAMIC_FUTURE",
        "ERROR",
        "EXTERNAL",
        "FAIL",
        "FUTURE",
        "INVALID",
        "INVALID_REG",
        "MAINTENANCE",
        "NOT_RESPONDING",
        "POWERING_DOWN",
        "POWER_DOWN",
        "POWER_DOWN_ASAP",
        "POWER_DOWN_FORCE",
        "POWER_DRAIN",
        "REBOOT_ISSUED",
        "UNKNOWN",
    }
)

_OWN_NUMBER: Final = re.compile(r"(\d+)(?:[_+]\d+)?")

Json = Mapping[str, Any]


def submission(script: JobScript) -> dict[str, Any]:
    """The body of POST /job/submit: field for field what `commands.sbatch` says in options."""
    options = script.options
    environment = [
        f"PATH={PATH}",
        # sbatch sets these itself; a job must not look different for the way it came
        f"SLURM_CPUS_PER_TASK={options.cpus_per_task}",
        f"SLURM_SUBMIT_DIR={options.working_directory}",
    ]
    job: dict[str, Any] = {
        "name": options.name,
        "nodes": str(options.nodes),
        "minimum_nodes": options.nodes,
        "maximum_nodes": options.nodes,
        "tasks": options.tasks,
        "cpus_per_task": options.cpus_per_task,
        "requeue": options.requeue,
        "standard_output": options.output,
        "current_working_directory": options.working_directory,
        "environment": environment,
    }
    if options.tasks_per_node is not None:
        job["tasks_per_node"] = options.tasks_per_node
        environment.append(f"SLURM_NTASKS_PER_NODE={options.tasks_per_node}")
    named = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraints": options.constraint,
    }
    job.update({field: value for field, value in named.items() if value})
    job.update({field: value for field, value in (("comment", options.comment), ("extra", options.extra)) if value})
    if options.time_limit is not None:
        job["time_limit"] = _set(options.time_limit)
    if options.begin_at is not None:
        job["begin_time"] = _set(int(options.begin_at.timestamp()))
    if options.memory is not None:
        job["memory_per_node"] = _set(options.memory)
    if options.gres:
        job["tres_per_node"] = gres.tres(options.gres)
    if options.exclusive:
        job["shared"] = ["none"]
    return {"script": script.text, "job": job}


def _set(number: int) -> dict[str, Any]:
    return {"set": True, "infinite": False, "number": number}


def moment(at: datetime) -> str:
    """A time in a question: the one form that v0.0.41 takes as well."""
    return f"uts{int(at.timestamp())}"


def job_states(body: Json) -> dict[int, tuple[str, ...]]:
    """GET /jobs/state/: state words by job number.

    A task of an array is `59_5`, a component of a heterogeneous job `57+1`: the number before the sign is its own.
    The tasks that have not started (`55_6`, `55_7`) share the array's.
    """
    found: dict[int, tuple[str, ...]] = {}
    for row in body.get("jobs") or ():
        if number := _OWN_NUMBER.fullmatch(str(row.get("job_id", ""))):
            found.setdefault(int(number[1]), tuple(str(word) for word in row.get("state") or ()))
    return found


def queue_job(row: Json, comment_field: str = "comment") -> SeenJob:
    """One row of GET /job/{id} or /jobs/: what slurmctld knows."""
    state, flags = states.parse(row.get("job_state") or ())
    code, signal = exit_code(row.get("exit_code"))
    return SeenJob(
        job_id=times.number(row.get("job_id")) or 0,
        name=row.get("name") or "",
        user=row.get("user_name") or "",
        state=state,
        flags=flags,
        reason=_reason(row.get("state_reason"), row.get("state_description")),
        nodes=row.get("nodes") or "",
        exit_code=code if state.ended else None,
        signal=signal if state.ended else None,
        comment=row.get(comment_field) or "",
        restarts=times.number(row.get("restart_cnt")) or 0,
        submit_time=times.moment(row.get("submit_time")),
        start_time=times.moment(row.get("start_time")),
        end_time=times.moment(row.get("end_time")),
        time_limit=times.number(row.get("time_limit")),
    )


def accounting_job(row: Json, comment_field: str = "comment") -> SeenJob:
    """One row of /slurmdb/…/job/{id} or /jobs/: what slurmdbd knows."""
    said = row.get("state") or {}
    state, flags = states.parse(said.get("current") or ())
    code, signal = exit_code(row.get("exit_code"))
    when = row.get("time") or {}
    comment = (row.get("comment") or {}).get("job") if comment_field == "comment" else row.get(comment_field)
    nodes = row.get("nodes") or ""
    return SeenJob(
        job_id=times.number(row.get("job_id")) or 0,
        name=row.get("name") or "",
        user=row.get("user") or (row.get("association") or {}).get("user") or "",
        state=state,
        flags=flags,
        reason=_reason(said.get("reason"), None),
        nodes="" if nodes == "None assigned" else nodes,
        exit_code=code if state.ended else None,
        signal=signal if state.ended else None,
        comment=comment or "",
        restarts=times.number(row.get("restart_cnt")) or 0,
        submit_time=times.moment(when.get("submission")),
        start_time=times.moment(when.get("start")),
        end_time=times.moment(when.get("end")),
        time_limit=times.number(when.get("limit")),
    )


def exit_code(said: Any) -> tuple[int | None, int | None]:
    """Exit code and signal; exactly one of them is set for a job that ran to an end."""
    if not isinstance(said, dict):
        return None, None
    signal = times.number((said.get("signal") or {}).get("id"))
    if signal:
        return None, signal
    return times.number(said.get("return_code")), None


def _reason(word: Any, description: Any) -> str:
    text = str(word or "")
    if text in {"None", "NONE"}:
        text = ""
    return f"{text}: {description}" if text and description else text


def inventory(partitions: Json, nodes: Json) -> Inventory:
    """GET /partitions/ and /nodes/."""
    return Inventory(
        partitions=tuple(_partition(row) for row in partitions.get("partitions") or ()),
        nodes=tuple(_node(row) for row in nodes.get("nodes") or ()),
    )


def _partition(row: Json) -> Partition:
    return Partition(
        name=row.get("name") or "",
        up="UP" in ((row.get("partition") or {}).get("state") or ()),
        default="DEFAULT" in (row.get("flags") or ()),
        max_time=times.number((row.get("maximums") or {}).get("time")),
        default_time=times.number((row.get("defaults") or {}).get("time")),
        nodes=(row.get("nodes") or {}).get("configured") or "",
        total_nodes=times.number((row.get("nodes") or {}).get("total")) or 0,
        total_cpus=times.number((row.get("cpus") or {}).get("total")) or 0,
    )


def _node(row: Json) -> Node:
    words = tuple(str(word) for word in row.get("state") or ())
    return Node(
        name=row.get("name") or "",
        address=row.get("address") or "",
        states=words,
        available=node_available(words),
        reason=row.get("reason") or "",
        partitions=tuple(row.get("partitions") or ()),
        cpus=times.number(row.get("effective_cpus")) or times.number(row.get("cpus")) or 0,
        cpus_used=times.number(row.get("alloc_cpus")) or 0,
        memory=times.number(row.get("real_memory")) or 0,
        memory_used=times.number(row.get("alloc_memory")) or 0,
        gpus=gres.gpus(row.get("gres") or "", row.get("gres_used") or ""),
        features=_words(row.get("active_features") or row.get("features")),
    )


def node_available(words: Iterable[str]) -> bool:
    """Would it start a job now (if it had room)? A word that we do not know does not close it."""
    upper = {word.upper() for word in words}
    return bool(upper) and not upper & _CLOSED


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part for part in value.split(",") if part)
    return tuple(str(part) for part in value or ())
