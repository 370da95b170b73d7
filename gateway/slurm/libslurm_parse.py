"""What the libslurm worker tells ⇄ our values: pyslurm's names and habits end here. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.model.inventory import Inventory, Node, Partition
from gateway.model.job import JobScript, SeenJob
from gateway.slurm import gres, rest_parse, states, times

Row = Mapping[str, Any]

# pyslurm's name → `scontrol show config`'s, where it is not just written otherwise
_CONFIG_NAMES: Final = {
    "kill_wait_time": "KillWait",
    "slurmctld_boot_time": "BOOT_TIME",
    "version": "SLURM_VERSION",
    "constrain_ram_space": "ConstrainRAMSpace",
    "accounting_storage_tres": "AccountingStorageTRES",
}


def submission(script: JobScript) -> dict[str, Any]:
    """The arguments of a submit: field for field what `commands.sbatch` says in options."""
    asked = script.options
    options: dict[str, Any] = {
        "name": asked.name,
        "nodes": asked.nodes,
        "ntasks": asked.tasks,
        "cpus_per_task": asked.cpus_per_task,
        "is_requeueable": asked.requeue,
        "standard_output": asked.output,
        "working_directory": asked.working_directory,
    }
    given = {
        "ntasks_per_node": asked.tasks_per_node,
        "time_limit": asked.time_limit,
        "begin_time": int(asked.begin_at.timestamp()) if asked.begin_at is not None else None,
        "memory_per_node": f"{asked.memory}M" if asked.memory is not None else None,
        "partitions": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraints": asked.constraint,
        "comment": asked.comment,
        "extra": asked.extra,
        "gres_per_node": _gres(asked.gres or ""),
        "resource_sharing": "exclusive" if asked.exclusive else None,
    }
    options.update({name: value for name, value in given.items() if value is not None and value not in ("", {})})
    pairs = (pair.partition("=") for pair in rest_parse.submission(script)["job"]["environment"])
    environment = {name: value for name, _, value in pairs}
    return {"script": script.text, "environment": environment, "options": options}


def _gres(text: str) -> dict[str, int]:
    """`gpu:a100:2,shard` as pyslurm wants it: each kind with its count."""
    found = {}
    for part in filter(None, (part.strip().removeprefix("gres/") for part in text.split(","))):
        kind, _, count = part.rpartition(":")
        if kind and count.isdecimal():
            found[kind] = int(count)
        else:
            found[part] = 1
    return found


def job(row: Row, comment_field: str = "comment") -> SeenJob:
    """One job, from slurmctld or from slurmdbd."""
    state, flags = states.parse(row["state"] or "")
    code, signal = exit_code(row) if state.ended else (None, None)
    reason, nodes = row["reason"], row["nodes"]
    return SeenJob(
        job_id=row["id"],
        name=row["name"],
        user=row["user"],
        state=state,
        flags=flags,
        reason="" if reason == "None" else reason,
        nodes="" if nodes == "None assigned" else nodes,
        exit_code=code,
        signal=signal,
        comment=row[comment_field],
        restarts=row["restarts"] or 0,
        submit_time=times.moment(row["submitted"]),
        start_time=times.moment(row["started"]),
        end_time=times.moment(row["ended"]),
        time_limit=times.number(row["limit"]),
    )


def exit_code(row: Row) -> tuple[int | None, int | None]:
    """Exit code and signal; exactly one of them is set. `raw_exit` is as wait(2) says it, None where it is not told."""
    raw = row["raw_exit"]
    signal = row["exit_signal"] if raw is None else raw & 0x7F
    if signal:
        return None, signal
    return (row["exit_code"] if raw is None else raw >> 8 & 0xFF), None


def inventory(told: Mapping[str, Iterable[Row]]) -> Inventory:
    return Inventory(
        partitions=tuple(_partition(row) for row in told["partitions"]),
        nodes=tuple(_node(row) for row in told["nodes"]),
    )


def _partition(row: Row) -> Partition:
    return Partition(
        name=row["name"],
        up=row["state"] == "UP",
        default=row["default"],
        max_time=times.number(row["max_time"]),
        default_time=times.number(row["default_time"]),
        nodes=row["nodes"],
        total_nodes=row["total_nodes"] or 0,
        total_cpus=row["total_cpus"] or 0,
    )


def _node(row: Row) -> Node:
    words = tuple(filter(None, row["state"].upper().split("+")))
    return Node(
        name=row["name"],
        address=row["address"],
        states=words,
        available=rest_parse.node_available(words),
        reason=row["reason"],
        partitions=tuple(row["partitions"]),
        cpus=row["cpus"] or 0,
        cpus_used=row["alloc_cpus"] or 0,
        memory=row["real_memory"] or 0,
        memory_used=row["alloc_memory"] or 0,
        gpus=gres.gpus(row["gres"], row["gres_used"]),
        features=tuple(row["features"]),
    )


def configuration(told: Mapping[str, Row]) -> dict[str, str]:
    """By the names of `scontrol show config`, as far as they are those of pyslurm in another spelling."""
    return {
        _config_name(name): _config_text(value) for group in ("values", "cgroup") for name, value in told[group].items()
    }


def _config_name(name: str) -> str:
    return _CONFIG_NAMES.get(name) or "".join(part.capitalize() for part in name.split("_"))


def _config_text(value: Any) -> str:
    match value:
        case None:
            return "(null)"
        case bool():
            return "yes" if value else "no"
        case list():
            return ",".join(str(item).lower() for item in value)
        case _:
            return str(value)
