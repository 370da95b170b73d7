"""What `sluice doctor` makes of what it saw: pure functions from facts about a cluster to findings."""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

from gateway.model.inventory import Inventory

Config = Mapping[str, str]
"""Slurm's configuration, by the names that `scontrol show config` prints; values as it prints them."""

OLDEST: Final = (24, 5)
NEWEST: Final = (26, 5)
LOOKS_KEPT: Final = 10  # so many looks at Slurm must fall into MinJobAge
SKEW_OK: Final = 5.0
SKEW_MOST: Final = 60.0  # tokens and certificates begin so long before they are made
SYSTEM_UIDS: Final = 1000
THREADS_MOST: Final = 128
DBD_QUEUE_MOST: Final = 1000


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


class Finding(BaseModel):
    """One check: what was seen, and what to change (empty where there is nothing to)."""

    model_config = ConfigDict(frozen=True)

    check: str
    verdict: Verdict
    seen: str
    advice: str = ""


class Association(BaseModel):
    """A row of Slurm's accounting that lets the user run; an empty partition means all of them."""

    model_config = ConfigDict(frozen=True)

    cluster: str
    account: str
    partition: str = ""
    qos: tuple[str, ...] = ()
    default: bool = False


class Load(BaseModel):
    """How busy slurmctld is: threads at work, messages that wait for nodes and for slurmdbd, calls by Unix user."""

    model_config = ConfigDict(frozen=True)

    threads: int
    agent_queue: int
    dbd_queue: int
    calls: Mapping[str, int] = {}


def ok(check: str, seen: str) -> Finding:
    return Finding(check=check, verdict=Verdict.OK, seen=seen)


def warning(check: str, seen: str, advice: str) -> Finding:
    return Finding(check=check, verdict=Verdict.WARNING, seen=seen, advice=advice)


def problem(check: str, seen: str, advice: str) -> Finding:
    return Finding(check=check, verdict=Verdict.PROBLEM, seen=seen, advice=advice)


def skipped(check: str, why: str, advice: str = "") -> Finding:
    return Finding(check=check, verdict=Verdict.SKIPPED, seen=why, advice=advice)


# ------------------------------------------------------------------ Slurm


def versions(slurm: str, backend: str) -> Finding:
    """`slurm` as 26.05.5, `backend` as the scheduler names itself (`rest v0.0.45`)."""
    found = re.match(r"(\d+)\.(\d+)", slurm)
    if found is None:
        return warning("versions", f"Slurm names its version {slurm!r}.", "Check that it is 24.05 or newer.")
    version = (int(found[1]), int(found[2]))
    seen = f"Slurm {slurm}, asked by {backend}."
    if version < OLDEST:
        return problem("versions", seen, "Slurm 24.05 is the oldest that Sluice speaks with: upgrade Slurm.")
    if version > NEWEST:
        return warning("versions", seen, "Newer than the newest that was tried (26.05): look for a newer Sluice.")
    return ok("versions", seen)


def identity(user: str, name: str, uid: int, where: str) -> Finding:
    """Who commands run as on the login node (`where`), as `id` says there."""
    if uid == 0 or user == "root":
        return problem("identity", f"Jobs would run as root on {where}.", "Name an ordinary user: unix_user.")
    if name != user:
        return problem(
            "identity", f"Asked to be {user}, we are {name} on {where}.", "Set unix_user to the user of the jobs."
        )
    if uid < SYSTEM_UIDS:
        return warning(
            "identity", f"{user} is a system account on {where} (uid {uid}).", "Use an ordinary user as unix_user."
        )
    return ok("identity", f"{user} (uid {uid}) is let in on {where}.")


def clock(skews: Mapping[str, float]) -> Finding:
    """Seconds by which each clock of the cluster is before ours, by the place where it was read."""
    place, worst = max(skews.items(), key=lambda entry: abs(entry[1]))
    seen = "; ".join(f"the clock of {at} is {_skew(skew)}" for at, skew in skews.items()) + "."
    seen = seen[0].upper() + seen[1:]
    advice = f"Keep the time of the gateway and of {place} by NTP or chrony."
    if abs(worst) >= SKEW_MOST:
        return problem("clock", seen, f"{advice} Tokens and certificates fail from a minute on.")
    if abs(worst) >= SKEW_OK:
        return warning("clock", seen, advice)
    return ok("clock", seen)


def _skew(seconds: float) -> str:
    if abs(seconds) < 1.5:  # noqa: PLR2004  slurmctld's is told in whole seconds
        return "the same within a second or two"
    return f"{abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"


def job_age(config: Config, poll_seconds: float) -> Finding:
    """Jobs must stay in the queue long enough to be seen there after their end."""
    age = seconds(config.get("MinJobAge"))
    if age is None:
        return skipped("job age", "Slurm's configuration does not name MinJobAge.")
    if age == 0:
        return ok("job age", "MinJobAge=0: Slurm keeps ended jobs in the queue until it restarts.")
    needed = max(60, LOOKS_KEPT * poll_seconds)
    seen = f"Ended jobs stay in the queue for {age:g} s (MinJobAge); Slurm is looked at every {poll_seconds:g} s."
    if age >= needed:
        return ok("job age", seen)
    advice = f"Set MinJobAge={needed:g} or more in slurm.conf (300 is Slurm's default)."
    return (warning if _stored(config) else problem)("job age", seen, advice)


def load(seen: Load, user: str) -> Finding:
    """Whether slurmctld keeps up, and how much of its work is ours."""
    every, ours = sum(seen.calls.values()), seen.calls.get(user, 0)
    waiting = f"{seen.agent_queue} messages wait for nodes, {seen.dbd_queue} for slurmdbd"
    words = f"slurmctld works on {seen.threads} calls; {waiting}."
    if every:
        words += f" Of {every} calls since its counters began, {ours} were {user}'s."
    if seen.dbd_queue >= DBD_QUEUE_MOST:
        return warning("load", words, "Accounting is behind: look at slurmdbd and its database.")
    if seen.threads >= THREADS_MOST:
        return warning("load", words, "`sdiag` says who asks so much; MAX_SERVER_THREADS is 256.")
    return ok("load", words)


def accounting(config: Config) -> Finding:
    """Jobs that left the queue are known from slurmdbd only."""
    if _stored(config):
        host = config.get("AccountingStorageHost", "?")
        return ok("accounting", f"Jobs are kept in accounting, and slurmdbd on {host} answers.")
    kind = config.get("AccountingStorageType") or "none"
    return problem(
        "accounting",
        f"Slurm keeps no jobs in a database (AccountingStorageType={kind}).",
        "Run slurmdbd and set AccountingStorageType=accounting_storage/slurmdbd: "
        "else the end of a job that left the queue is not known.",
    )


def _stored(config: Config) -> bool:
    return config.get("AccountingStorageType", "").endswith("slurmdbd")


def association(
    rows: Sequence[Association],
    config: Config,
    *,
    user: str,
    account: str | None = None,
    partition: str | None = None,
    qos: str | None = None,
) -> Finding:
    """Whether accounting lets the user run with the cluster's account, partition and QOS."""
    here = [row for row in rows if row.cluster in {config.get("ClusterName"), ""} or "ClusterName" not in config]
    enforced = "associations" in config.get("AccountingStorageEnforce", "")
    failed = problem if enforced else warning
    add = f"sacctmgr add user {user} account={account or 'ACCOUNT'}"
    if not here:
        return failed("association", f"{user} has no association on this cluster.", f"Give one: {add}.")
    if account is not None:
        here = [row for row in here if row.account == account]
        if not here:
            has = ", ".join(sorted({row.account for row in rows}))
            return failed("association", f"{user} is not in the account {account} (but in {has}).", f"{add}.")
    if partition is not None:
        here = [row for row in here if row.partition in {"", partition}]
        if not here:
            return failed(
                "association",
                f"{user} may not use the partition {partition} with that account.",
                f"{add} partition={partition}, or set another default_partition.",
            )
    if qos is not None and not any(qos in row.qos for row in here):
        has = ", ".join(sorted({name for row in here for name in row.qos})) or "none"
        return failed(
            "association",
            f"{user} may not use the QOS {qos} (but {has}).",
            f"sacctmgr modify user {user} set qos+={qos}, or set another qos.",
        )
    accounts = ", ".join(sorted({row.account for row in here}))
    return ok("association", f"{user} may run in {accounts}{f' with QOS {qos}' if qos else ''}.")


def partition(inventory: Inventory, wanted: str | None) -> Finding:
    """Whether there is a partition for jobs that name none, and a node that would start them."""
    names = ", ".join(part.name for part in inventory.partitions) or "none"
    if wanted is None:
        chosen = next((part for part in inventory.partitions if part.default), None)
        if chosen is None:
            return warning(
                "partition",
                f"No partition is told to be the default one (there are: {names}).",
                "Set default_partition.",
            )
    else:
        chosen = next((part for part in inventory.partitions if part.name == wanted), None)
        if chosen is None:
            return problem(
                "partition", f"There is no partition {wanted} (there are: {names}).", "Set default_partition."
            )
    nodes = [node for node in inventory.nodes if chosen.name in node.partitions]
    ready = sum(node.available for node in nodes)
    seen = f"{chosen.name}: {ready} of {len(nodes)} nodes would start a job."
    if not chosen.up:
        return problem(
            "partition",
            f"The partition {chosen.name} is down.",
            f"scontrol update PartitionName={chosen.name} State=UP.",
        )
    return ok("partition", seen) if ready else warning("partition", seen, "`sinfo -R` says why nodes are out.")


def gpus(config: Config, inventory: Inventory) -> Finding:
    """Whether a job sees only the GPUs it was given."""
    if not inventory.gpus():
        return skipped("gpus", "The cluster has no GPUs in its GRES.")
    kinds = ", ".join(f"{gpu.total} {gpu.name}:{gpu.type}".rstrip(":") for gpu in inventory.gpus())
    advice = "Set TaskPlugin=task/cgroup in slurm.conf and ConstrainDevices=yes in cgroup.conf."
    if "cgroup" not in config.get("TaskPlugin", ""):
        plugin = config.get("TaskPlugin", "").replace("(null)", "") or "none"
        return warning(
            "gpus", f"GPUs ({kinds}) are not isolated: TaskPlugin={plugin}, every job of a node can use all.", advice
        )
    constrained = config.get("ConstrainDevices")
    if constrained is None:
        return warning("gpus", f"GPUs: {kinds}; whether devices are constrained could not be seen.", advice)
    if constrained.lower() not in {"yes", "true", "1"}:
        return warning("gpus", f"GPUs ({kinds}) are not isolated: ConstrainDevices={constrained}.", advice)
    return ok("gpus", f"GPUs ({kinds}) are given to their jobs alone (ConstrainDevices=yes).")


def kill_wait(config: Config, kill_after: float) -> Finding:
    """Slurm's own patience against the agent's (`kill_after`, seconds)."""
    wait = seconds(config.get("KillWait"))
    if wait is None:
        return skipped("kill wait", "Slurm's configuration does not name KillWait.")
    seen = f"Slurm kills {wait:g} s after its SIGTERM (KillWait); a service may take {kill_after:g} s to stop."
    if wait >= kill_after:
        return ok("kill wait", seen)
    return warning(
        "kill wait",
        seen,
        f"Set KillWait={kill_after:g} in slurm.conf, or a smaller lifecycle.kill_after in recipes: "
        "a job that Slurm itself ends (scancel, time limit) is cut off before it has stopped in good order.",
    )


def seconds(text: str | None) -> float | None:
    """`300 sec` or `300`."""
    found = re.match(r"\d+(\.\d+)?", text or "")
    return float(found[0]) if found else None


# ------------------------------------------------------------------ nodes


class NodePath(BaseModel):
    """One node as the gateway reaches it. `reached` None: nothing came back in time."""

    model_config = ConfigDict(frozen=True)

    node: str
    address: str
    reached: bool | None
    words: str = ""


def node_path(paths: Sequence[NodePath], nodes: int, port: int, *, how: str = "directly") -> Finding:
    """Nodes tried at slurmd's port: an answer of any kind shows that there is a way. `how` they were reached."""
    if not paths:
        return skipped("node path", "No node is up that could be tried.")
    tried = f"{len(paths)} of {nodes} nodes tried at slurmd's port {port}"
    advice = (
        "The gateway connects to its jobs on ports that they choose: let TCP through from here to the nodes, "
        "or through the login node (ssh_host, AllowTcpForwarding), see path."
    )
    if lost := [path for path in paths if path.reached is False]:
        words = "; ".join(f"{path.node} ({path.address or 'no address'}): {path.words}" for path in lost)
        return problem("node path", f"{tried}: {words}.", advice)
    if silent := [path for path in paths if path.reached is None]:
        names = ", ".join(f"{path.node} ({path.address or 'no address'}: {path.words})" for path in silent)
        return warning("node path", f"{tried}; not reached: {names}.", advice)
    return ok("node path", f"{tried}, all answer, {how}. The ports of jobs themselves are tried only with --job.")


class JobReport(BaseModel):
    """What the tiny job wrote: versions of the node's programs (empty: not there), and where it listened."""

    model_config = ConfigDict(frozen=True)

    node: str
    python3: str = ""
    openssl: str = ""
    apptainer: str = ""
    address: str = ""
    port: int = 0


def programs(report: JobReport) -> Finding:
    found = {"python3": report.python3, "openssl": report.openssl, "apptainer": report.apptainer}
    missing = [name for name, version in found.items() if not version]
    seen = f"On {report.node}: " + ", ".join(f"{name} {version or 'missing'}" for name, version in found.items()) + "."
    if missing:
        return problem("programs", seen, f"Install {' and '.join(missing)} on every node.")
    numbers = tuple(int(part) for part in re.findall(r"\d+", report.python3)[:2])
    if numbers < (3, 8):
        return problem("programs", seen, "The agent needs Python 3.8 or newer on every node.")
    return ok("programs", seen)
