"""Times, generic resources and errors, as Slurm writes them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    Forbidden,
    SchedulerUnavailable,
    SluiceError,
    SubmitDeferred,
    SubmitRefused,
    SubmitUnknown,
)
from gateway.slurm import gres, times
from gateway.slurm.problems import Problem, after_question, after_sbatch, after_submit, from_body


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("1-00:00:00", 1440),
        ("7-00:00:00", 10080),
        ("2-12", 3600),
        ("1-01:30", 1530),
        ("10:00", 10),
        ("00:30", 1),
        ("5:00:00", 300),
        ("90", 90),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("NOT_SET", None),
        ("", None),
    ],
)
def test_limits(text: str, minutes: int | None) -> None:
    assert times.minutes(text) == minutes


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59))
def test_limits_of_days_come_back(days: int, hours: int, minutes: int) -> None:
    assert times.minutes(f"{days}-{hours:02}:{minutes:02}:00") == (days * 24 + hours) * 60 + minutes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1795222198, datetime(2026, 11, 21, 0, 49, 58, tzinfo=UTC)),
        ("1795222198", datetime(2026, 11, 21, 0, 49, 58, tzinfo=UTC)),
        ({"set": True, "infinite": False, "number": 1795222198}, datetime(2026, 11, 21, 0, 49, 58, tzinfo=UTC)),
        ({"set": False, "infinite": True, "number": 5}, None),
        (0, None),
        ("N/A", None),
        ("Unknown", None),
        (None, None),
        (2**63, None),
    ],
)
def test_moments(value: object, expected: datetime | None) -> None:
    assert times.moment(value) == expected


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("gpu:a100:4", {("gpu", "a100"): 4}),
        ("gpu:a100:4(S:0-1),shard:a100:16(S:0-1)", {("gpu", "a100"): 4, ("shard", "a100"): 16}),
        ("gpu:a100:2(IDX:0,2-3),gpu:a100_1g.10gb:0(IDX:N/A)", {("gpu", "a100"): 2, ("gpu", "a100_1g.10gb"): 0}),
        ("gpu:2", {("gpu", ""): 2}),
        ("gpu", {("gpu", ""): 1}),
        ("gres/gpu:h100=8,gres/gpu=8", {("gpu", "h100"): 8, ("gpu", ""): 8}),
        ("craynetwork:4,gpu:1", {("gpu", ""): 1}),
        ("mps:1K", {("mps", ""): 1024}),
        ("(null)", {}),
        ("", {}),
    ],
)
def test_generic_resources(text: str, counts: gres.Counts) -> None:
    assert gres.counts(text) == counts


def test_use_without_a_type_belongs_to_the_only_type() -> None:
    (gpus,) = gres.gpus("gpu:a100:4", "gpu:3")
    assert (gpus.type, gpus.total, gpus.used, gpus.free) == ("a100", 4, 3, 1)
    mixed = gres.gpus("gpu:a100:4,gpu:a30:2", "gpu:3")
    assert [gpus.used for gpus in mixed] == [0, 0]


def test_a_request_becomes_tres() -> None:
    assert gres.tres("gpu:a100:2,shard:1") == "gres/gpu:a100:2,gres/shard:1"
    assert gres.tres("gres/gpu:1") == "gres/gpu:1"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (2000, SubmitRefused),  # partition
        (2045, SubmitRefused),  # account
        (2051, SubmitRefused),  # time
        (2002, SubmitRefused),  # a site's submit plugin says no
        (-1, SubmitRefused),
        (2007, SubmitDeferred),  # MaxJobCount
        (2050, SubmitDeferred),  # MaxSubmitJobs, QOS
        (2105, SubmitDeferred),  # submissions disabled
        (1800, SchedulerUnavailable),  # controller refuses the connection
        (2027, SchedulerUnavailable),  # standby
        (1804, SchedulerUnavailable),  # rate limit
        (1007, SchedulerUnavailable),  # token
        (1802, SubmitUnknown),  # the answer did not come
        (5004, SubmitUnknown),
        (None, SubmitUnknown),
        (32, SubmitUnknown),  # an errno of the system
    ],
)
def test_what_a_failed_submit_means(number: int | None, expected: type[SluiceError]) -> None:
    error = after_submit(Problem(number, "Slurm's own words"))
    assert type(error) is expected
    assert "Slurm's own words" in str(error)


FAILED = "sbatch: error: Batch job submission failed: "
POLICY = f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n"


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (f"{FAILED}Invalid account or account/partition combination specified\n", SubmitRefused),
        ("sbatch: error: Memory specification can not be satisfied\n", SubmitRefused),
        ("sbatch: error: Invalid generic resource (gres) specification\n", SubmitRefused),
        (f"{FAILED}Socket timed out on send/recv operation\n", SubmitUnknown),
        (f"{FAILED}Unable to contact slurm controller (connect failure)\n", SchedulerUnavailable),
        (f"{FAILED}Connection reset by peer\n", SubmitUnknown),
        (f"{FAILED}Something that only a new release says\n", SubmitRefused),
        (
            "sbatch: error: AssocMaxSubmitJobLimit\n"
            + FAILED
            + "Job violates accounting/QOS policy (job submit limit, "
            "user's size and/or time limits)\n",
            SubmitDeferred,
        ),
        (f"sbatch: error: QOSMaxCpuPerJobLimit\n{POLICY}", SubmitRefused),
    ],
)
def test_what_sbatch_says(stderr: str, expected: type[SluiceError]) -> None:
    error = after_sbatch(1, stderr)
    assert type(error) is expected
    assert "sbatch: error" not in str(error)


def test_a_killed_sbatch_leaves_a_doubt() -> None:
    assert type(after_sbatch(-9, "")) is SubmitUnknown
    assert type(after_sbatch(255, "")) is SubmitUnknown


def test_rights_are_not_availability() -> None:
    assert type(after_question(Problem(2002, "Access/permission denied"), "x")) is Forbidden
    assert type(after_question(Problem(1007, "Protocol authentication error"), "x")) is SchedulerUnavailable
    assert type(after_question(Problem(None, "?"), "x")) is SchedulerUnavailable


def test_the_first_error_of_an_answer_counts() -> None:
    body = {"errors": [{"description": "Batch job submission failed", "error_number": 2000, "error": "Invalid"}]}
    assert from_body(body) == Problem(2000, "Batch job submission failed: Invalid")
    assert from_body({"errors": []}) is None
    assert from_body({"errors": [{"error_code": 5, "error": "old form"}]}) == Problem(5, "old form")
