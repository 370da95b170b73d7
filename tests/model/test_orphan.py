"""What is ended as an orphan, and above all what is not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.job import LEFT_QUEUE, JobState, SeenJob
from gateway.model.orphan import OrphanKind, Owner, strays

US, OTHERS = "0a1b2c3d", "99999999"
NAME = "sluice-01jd0000000000000000000000-1"


def job(job_id: int = 7, state: JobState = JobState.RUNNING, gateway: str | None = US, **changes: Any) -> SeenJob:
    comment = "" if gateway is None else f"sluice/1@{gateway} starting"
    return SeenJob(job_id=job_id, name=NAME, user="alice", state=state, comment=comment).model_copy(update=changes)


def owner(job_id: int | None = 7, *, ended: bool = False) -> dict[str, Owner]:
    return {NAME: Owner(session_id="S", ended=ended, job_id=job_id)}


def kinds(jobs: list[SeenJob], owners: dict[str, Owner]) -> list[tuple[int, OrphanKind, int | None]]:
    return [(stray.job.job_id, stray.kind, stray.adopt) for stray in strays(jobs, owners, US)]


@pytest.mark.parametrize(
    ("jobs", "owners", "expected"),
    [
        pytest.param([job()], owner(), [], id="followed"),
        pytest.param([job()], {}, [(7, OrphanKind.UNKNOWN, None)], id="no session has it"),
        pytest.param([job(gateway=OTHERS)], {}, [], id="another gateway's"),
        pytest.param([job(gateway=None)], {}, [], id="nobody says whose"),
        pytest.param([job(gateway=OTHERS)], owner(ended=True), [], id="another gateway's of our name"),
        pytest.param([job()], owner(ended=True), [(7, OrphanKind.ENDED, None)], id="its session has ended"),
        pytest.param([job()], owner(job_id=None), [], id="not recorded yet"),
        pytest.param([job(), job(8)], owner(), [(8, OrphanKind.DOUBLE, None)], id="double"),
        pytest.param([job(8)], owner(), [(8, OrphanKind.DOUBLE, None)], id="double of one that has ended"),
        pytest.param(
            [job(7, JobState.PENDING), job(8)], owner(), [(7, OrphanKind.DOUBLE, 8)], id="the double has begun first"
        ),
        pytest.param([job(name="sluice-notes-1")], {}, [], id="a name that only looks like ours"),
        pytest.param([job(flags=frozenset({"COMPLETING"}))], {}, [], id="on its way out"),
        pytest.param([job(state=JobState.UNKNOWN, flags=frozenset({LEFT_QUEUE}))], {}, [], id="not in the queue"),
    ],
)
def test_what_is_ended(
    jobs: list[SeenJob], owners: dict[str, Owner], expected: list[tuple[int, OrphanKind, int | None]]
) -> None:
    assert kinds(jobs, owners) == expected


jobs_seen = st.lists(
    st.builds(
        job,
        st.integers(1, 4),
        st.sampled_from(JobState),
        st.sampled_from([US, OTHERS, None]),
        flags=st.frozensets(st.sampled_from(["COMPLETING", LEFT_QUEUE, "REQUEUED"])),
    ),
    max_size=5,
    unique_by=lambda one: one.job_id,
)


@given(jobs_seen, st.none() | st.integers(1, 4), st.booleans(), st.booleans())
def test_what_is_never_ended(jobs: list[SeenJob], recorded: int | None, known: bool, ended: bool) -> None:
    found = strays(jobs, owner(recorded, ended=ended) if known else {}, US)
    assert len({stray.job.job_id for stray in found}) == len(found)
    for stray in found:
        assert not stray.job.state.ended
        assert OTHERS not in stray.job.comment
        assert known or US in stray.job.comment
        assert ended or not known or stray.job.job_id != recorded or stray.adopt is not None
    if known and not ended and recorded in {one.job_id for one in jobs}:
        mine = [one for one in jobs if one.job_id not in {stray.job.job_id for stray in found}]
        assert mine, "a live session keeps a job"
