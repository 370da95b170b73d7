"""Places in the queue: asked seldom, only while something waits, and never in the way."""

from collections.abc import Mapping, Sequence

import pytest

from gateway.core.ports import CommandResult, LineHandler
from gateway.errors import SchedulerUnavailable
from gateway.model.job import JobOptions, JobScript
from gateway.slurm.commands import Unreadable, parse_pending
from gateway.slurm.fake import FakeSlurm
from gateway.slurm.places import EVERY, WithPlaces


def test_places_are_counted_within_each_partition() -> None:
    assert parse_pending("cpu 9\ngpu 4\ncpu,gpu 7\ngpu 8\n") == {9: 1, 4: 1, 7: 2, 8: 3}
    assert parse_pending("") == {}


def test_what_is_not_a_row_is_not_read_as_one() -> None:
    with pytest.raises(Unreadable, match="slurm_load_jobs"):
        parse_pending("slurm_load_jobs error\n")


class Login:
    """A login node whose squeue prints `text`."""

    def __init__(self, text: str) -> None:
        self.text, self.asked, self.down = text, 0, False

    async def run(
        self,
        argv: Sequence[str],
        *,
        user: str,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the port's word
        on_line: LineHandler | None = None,
    ) -> CommandResult:
        del argv, user, stdin, env, timeout, on_line
        self.asked += 1
        if self.down:
            raise SchedulerUnavailable("no route to host")
        return CommandResult(returncode=0, stdout=self.text, stderr="")

    async def close(self) -> None:
        return


async def test_the_queue_is_asked_only_while_a_job_waits_and_seldom() -> None:
    slurm, login, now = FakeSlurm(), Login("cpu 1\n"), [0.0]
    placed = WithPlaces(slurm, login, viewer="ann", monotonic=lambda: now[0])
    job_id = await placed.submit(JobScript(options=JobOptions(name="a"), text="#!/bin/sh\n"), "ann")
    for _ in range(5):
        assert (await placed.look([job_id]))[job_id].position == 1
    assert login.asked == 1
    now[0] += EVERY
    login.down = True
    assert (await placed.look([job_id]))[job_id].job_id == job_id
    assert login.asked == 2
    slurm.start(job_id)
    now[0] += EVERY
    assert (await placed.look([job_id]))[job_id].position is None
    assert login.asked == 2
