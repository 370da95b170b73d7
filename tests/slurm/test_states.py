"""Every state word of every Slurm release goes through one table, and none that it does not know ends a job."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.job import JobState
from gateway.slurm.states import BASES, FLAGS, parse

# The words of slurmrestd's schema (v0.0.45), which is the longest list there is.
SCHEMA = set(
    re.findall(
        r"\w+",
        """
        PENDING RUNNING SUSPENDED COMPLETED CANCELLED FAILED TIMEOUT NODE_FAIL PREEMPTED BOOT_FAIL DEADLINE
        OUT_OF_MEMORY LAUNCH_FAILED REQUEUED REQUEUE_HOLD SPECIAL_EXIT RESIZING CONFIGURING COMPLETING STOPPED
        RECONFIG_FAIL POWER_UP_NODE REVOKED REQUEUE_FED RESV_DEL_HOLD SIGNALING STAGE_OUT EXPEDITING
        """,
    )
)

bases = st.sampled_from(sorted(BASES))
flags = st.sets(st.sampled_from(sorted(FLAGS)))
back_in_the_queue = {"REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}


def test_the_table_has_every_word_of_the_schema() -> None:
    assert SCHEMA <= BASES | FLAGS


@pytest.mark.parametrize(
    ("words", "state", "told"),
    [
        ("RUNNING", JobState.RUNNING, set()),
        ("CANCELLED by 2001", JobState.CANCELLED, set()),
        ("OUT_OF_MEMORY", JobState.OUT_OF_MEMORY, set()),
        ("OOM", JobState.OUT_OF_MEMORY, set()),
        ("CG", JobState.RUNNING, {"COMPLETING"}),
        ("COMPLETING", JobState.RUNNING, {"COMPLETING"}),
        ("REQUEUE_HOLD", JobState.PENDING, {"REQUEUE_HOLD"}),
        ("REQUEUED", JobState.PENDING, {"REQUEUED"}),
        ("LAUNCH_FAILED", JobState.UNKNOWN, {"LAUNCH_FAILED"}),
        ("REVOKED", JobState.UNKNOWN, {"REVOKED"}),
        ("PREEMPTED", JobState.PREEMPTED, set()),
        ("", JobState.UNKNOWN, set()),
        ("VERY_NEW", JobState.UNKNOWN, {"VERY_NEW"}),
        (["CANCELLED", "COMPLETING"], JobState.CANCELLED, {"COMPLETING"}),
        (["RUNNING", "CONFIGURING"], JobState.RUNNING, {"CONFIGURING"}),
        (["PREEMPTED", "REQUEUED", "COMPLETING"], JobState.PENDING, {"REQUEUED", "COMPLETING"}),
        (["FAILED", "SPECIAL_EXIT"], JobState.PENDING, {"SPECIAL_EXIT"}),
        (["PENDING", "EXPEDITING"], JobState.PENDING, {"EXPEDITING"}),
        (["RUNNING", "VERY_NEW"], JobState.UNKNOWN, {"VERY_NEW"}),
        ([], JobState.UNKNOWN, set()),
    ],
)
def test_words_as_slurm_writes_them(words: str | list[str], state: JobState, told: set[str]) -> None:
    assert parse(words) == (state, frozenset(told))


@given(bases, flags)
def test_a_base_keeps_its_name_unless_the_job_goes_back_to_the_queue(base: str, some: set[str]) -> None:
    state, told = parse([base, *some])
    assert told == some
    if some & back_in_the_queue:
        assert state is JobState.PENDING or "REVOKED" in some
    elif "REVOKED" in some:
        assert state is JobState.UNKNOWN
    else:
        assert state.value == base


@given(flags.filter(bool))
def test_flags_without_a_base_never_end_a_job(some: set[str]) -> None:
    assert not parse(sorted(some))[0].ended


@given(st.lists(st.text(max_size=12)), flags)
def test_unknown_words_never_end_a_job(strange: list[str], some: set[str]) -> None:
    words = [word for word in strange if not parse(word)[1] <= FLAGS and parse(word)[0] is JobState.UNKNOWN]
    if words:
        assert not parse(["COMPLETED", *words, *some])[0].ended


@given(bases, flags)
def test_order_case_and_form_do_not_matter(base: str, some: set[str]) -> None:
    words = [base, *sorted(some)]
    assert parse(words) == parse([word.lower() for word in reversed(words)]) == parse(",".join(words))


@given(st.one_of(st.text(), st.lists(st.text())))
def test_anything_gives_a_state(words: str | list[str]) -> None:
    state, _ = parse(words)
    assert isinstance(state, JobState)
