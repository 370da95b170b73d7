"""What is counted of Slurm's commands."""

import os
import pwd

import pytest

from gateway.core.cost import Cost
from gateway.errors import Unavailable
from gateway.slurm import commands
from gateway.slurm.counted import CountedShell
from gateway.slurm.transport import LocalShell

ME = pwd.getpwuid(os.getuid()).pw_name


def test_which_program_a_command_runs_and_how_often() -> None:
    assert commands.programs(commands.squeue_states([1, 2, 3]).argv) == ("squeue", 1)
    assert commands.programs(commands.squeue_each([1, 2, 3], "|x|").argv) == ("squeue", 3)
    assert commands.programs(commands.scancel(7).argv) == ("scancel", 1)


async def test_runs_are_counted_by_their_outcome() -> None:
    cost = Cost()
    shell = CountedShell(LocalShell(), cost)
    with cost.tally() as tally:
        await shell.run(["echo", "four"], user=ME)
        await shell.run(["false"], user=ME)
    assert tally.received == 5
    assert cost.calls == {("echo", "ok"): 1, ("false", "refused"): 1}
    with pytest.raises(Unavailable):
        await shell.run(["sleep", "60"], user=ME, timeout=0.01)
    assert cost.calls["sleep", "unanswered"] == 1
