"""Places in the queue: asked seldom, only while something waits, and never in the way."""

from collections.abc import Collection, Mapping, Sequence

import pytest

from gateway.core.ports import CommandResult, LineHandler
from gateway.errors import SchedulerUnavailable
from gateway.model.job import JobOptions, JobScript, SeenJob
from gateway.slurm.commands import Place, Unreadable, parse_pending
from gateway.slurm.fake import FakeSlurm
from gateway.slurm.places import EVERY, NEW_EVERY, WithPlaces, roughly


def test_places_are_counted_within_each_partition() -> None:
    text = "9 cpu Priority\n4 gpu Resources\n7 cpu,gpu Nodes required for job are DOWN\n8 gpu \n"
    assert parse_pending(text) == {
        9: Place(1, "Priority"),
        4: Place(1, "Resources"),
        7: Place(2, "Nodes required for job are DOWN"),
        8: Place(3, ""),
    }
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
    slurm, login, now = FakeSlurm(), Login("1 cpu Priority\n"), [0.0]
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


async def test_a_new_job_gets_its_place_soon() -> None:
    slurm, login, now = FakeSlurm(nodes=0), Login("1 cpu Priority\n2 cpu Priority\n"), [0.0]
    placed = WithPlaces(slurm, login, viewer="ann", monotonic=lambda: now[0])
    jobs = []
    for name in ("a", "b"):
        jobs.append(await placed.submit(JobScript(options=JobOptions(name=name), text="#!/bin/sh\n"), "ann"))
        await placed.look(jobs)
    assert login.asked == 1
    now[0] += NEW_EVERY
    assert (await placed.look(jobs))[2].position == 2
    assert login.asked == 2
    now[0] += NEW_EVERY
    await placed.look(jobs)
    assert login.asked == 2


async def test_a_squeue_that_was_held_up_once_is_asked_again_soon() -> None:
    slurm, login, now = FakeSlurm(nodes=0), Login("1 cpu Priority\n"), [0.0]
    moments = [0.0, 0.0, 0.0, 600.0]  # the server is stopped for ten minutes in the middle of the question
    placed = WithPlaces(slurm, login, viewer="ann", monotonic=lambda: moments.pop(0) if moments else now[0])
    job_id = await placed.submit(JobScript(options=JobOptions(name="a"), text="#!/bin/sh\n"), "ann")
    await placed.look([job_id])
    now[0] = 60.0
    await placed.look([job_id])
    assert (login.asked, moments) == (2, [])


class Noted(FakeSlurm):
    """Notes of which jobs news was awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited: list[set[int]] = []

    async def look(self, job_ids: Collection[int], awaited: Collection[int] = ()) -> Mapping[int, SeenJob]:
        self.awaited.append(set(awaited))
        return await super().look(job_ids, awaited)


async def test_a_job_that_waits_for_another_reason_is_asked_about_once() -> None:
    slurm, login, now = Noted(), Login("1 cpu Priority\n2 cpu Priority\n"), [0.0]
    placed = WithPlaces(slurm, login, viewer="ann", monotonic=lambda: now[0])
    jobs = [await placed.submit(JobScript(options=JobOptions(name=n), text="#!/bin/sh\n"), "ann") for n in "ab"]
    await placed.look(jobs)
    login.text = login.text.replace("2 cpu Priority", "2 cpu Resources")
    now[0] += EVERY
    for _ in range(3):
        await placed.look(jobs, [7])
    assert slurm.awaited == [set(), {7}, {7, 2}, {7}]


def test_far_places_are_told_roughly() -> None:
    assert [roughly(place) for place in (1, 42, 99, 104, 1234, 9999)] == [1, 42, 99, 100, 1200, 10000]
