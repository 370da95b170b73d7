"""Slurm's pending reasons in words."""

import pytest

from gateway.model.pending import explain


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("Priority", "Jobs of higher priority are before it."),
        ("(Resources)", "It is next, and waits for resources to become free."),
        ("ReqNodeNotAvail, UnavailableNodes:node[1-2]", "A node that it needs is down, drained or reserved."),
        ("QOSMaxGRESPerUser", "Your jobs use all the GPUs or other generic resources that the QOS allows a user."),
        ("QOSMaxJobsPerUserLimit", "Your jobs use all the running jobs that the QOS allows a user."),
        ("QOSGrpNodeLimit", "The jobs of the QOS use all the nodes that it allows."),
        ("AssocGrpCpuLimit", "The jobs of the account (association) use all the CPUs that it allows."),
        ("AssocGrpCPUMinutesLimit", "The budget (minutes of CPUs) of the account (association) is used up."),
        ("AssocMaxWallDurationPerJobLimit", "It asks for more time than the account (association) allows a job."),
        ("QOSMaxMemoryPerJob", "It asks for more memory than the QOS allows a job."),
        ("MaxJobsPerAccount", "Your account's jobs use all the resources that a limit on jobs allows an account."),
        ("SomethingNew", "Slurm says: SomethingNew."),
        ("", ""),
    ],
)
def test_reasons(reason: str, said: str) -> None:
    assert explain(reason) == said
