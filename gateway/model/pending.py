"""Why a job waits: Slurm's pending reasons as sentences for people."""

import re

_EXACT = {
    "": "",
    "None": "Slurm has not looked at it yet.",
    "Priority": "Jobs of higher priority are before it.",
    "Resources": "It is next, and waits for resources to become free.",
    "Dependency": "It waits for another job to end.",
    "DependencyNeverSatisfied": "It waits for a job that failed, and will never start.",
    "BeginTime": "Its begin time has not come.",
    "JobHeldUser": "It is held; its owner can release it (scontrol release).",
    "JobHeldAdmin": "It is held by an administrator.",
    "ReqNodeNotAvail": "A node that it needs is down, drained or reserved.",
    "NodeDown": "A node that it needs is down.",
    "PartitionDown": "The partition is down.",
    "PartitionInactive": "The partition does not start jobs now.",
    "PartitionNodeLimit": "It asks for more nodes than the partition has, or allows.",
    "PartitionTimeLimit": "It asks for more time than the partition allows.",
    "PartitionConfig": "The partition cannot run it as it is asked for.",
    "BadConstraints": "No nodes have what it asks for.",
    "Licenses": "It waits for a licence.",
    "Reservation": "It waits for its reservation to begin.",
    "ReservationDeleted": "Its reservation is gone.",
    "InvalidAccount": "Its account is not valid.",
    "InvalidQOS": "Its QOS is not valid.",
    "QOSNotAllowed": "Its QOS is not allowed in this partition or account.",
    "AccountNotAllowed": "Its account may not use this partition.",
    "Cleaning": "It was requeued, and what its last run left is being cleaned up.",
    "Prolog": "The nodes are being prepared for it.",
    "JobArrayTaskLimit": "As many tasks of its array as allowed are running.",
    "JobLaunchFailure": "It could not be started.",
    "MaxRequeueAttempts": "It was requeued too often.",
    "FrontEndDown": "No front end is up to start it.",
    "InactiveLimit": "It reached the limit of inactivity.",
    "NonZeroExitCode": "Its last run failed.",
    "SystemFailure": "Slurm or a node failed.",
    "TimeLimit": "It reached its time limit.",
    "JobHoldMaxRequeue": "It was requeued too often, and is held.",
    "SchedDefer": "The scheduler puts off starting jobs at once.",
    "DeadLine": "It cannot end before its deadline.",
    "BurstBufferResources": "It waits for room in the burst buffer.",
    "BurstBufferStageIn": "Its data are being staged in.",
    "NodesNotAvail": "The nodes it asks for are not available.",
    "waiting": "",
    "limit": "",
    "suspended": "",
}

_WHO = {
    "QOS": "the QOS",
    "Assoc": "the account (association)",
    "Association": "the account (association)",
    "MaxJobsPer": "a limit on jobs",
}
_WHAT = {
    "Cpu": "CPUs",
    "CPU": "CPUs",
    "GRES": "GPUs or other generic resources",
    "Gres": "GPUs or other generic resources",
    "Mem": "memory",
    "Memory": "memory",
    "Node": "nodes",
    "Jobs": "running jobs",
    "Job": "running jobs",
    "Submit": "submitted jobs",
    "Wall": "time",
    "BB": "burst buffer",
    "License": "licences",
    "Billing": "billing units",
    "Energy": "energy",
    "TRES": "resources",
    "Unk": "resources",
}


def explain(reason: str) -> str:
    """A sentence for Slurm's pending reason; for one that no table knows, Slurm's own word."""
    word = reason.strip("() ").split(",", 1)[0].strip()
    if word in _EXACT:
        return _EXACT[word]
    limit = _limit(word)
    return limit or f"Slurm says: {reason}."


def _limit(word: str) -> str:
    """The families of limits: QOSMaxGRESPerUser, QOSGrpNodeLimit, AssocGrpCPUMinutesLimit, MaxJobsPerAccount."""
    who = next((text for start, text in _WHO.items() if word.startswith(start)), "")
    if not who:
        return ""
    of = re.sub(r"^(QOS|Assoc(iation)?|MaxJobs)|Per(Job|User|Account|Node).*", "", word)
    what = next((text for part, text in _WHAT.items() if part in of), "resources")
    if "Minutes" in word:
        return f"The budget (minutes of {what}) of {who} is used up."
    if "PerJob" in word or "Wall" in word:
        return f"It asks for more {what} than {who} allows a job."
    if "PerUser" in word or word.startswith("QOSMaxJobs"):
        return f"Your jobs use all the {what} that {who} allows a user."
    if "PerAccount" in word:
        return f"Your account's jobs use all the {what} that {who} allows an account."
    return f"The jobs of {who} use all the {what} that it allows."
