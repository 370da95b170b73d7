"""The figures of a benchmark: percentiles, definitions, what happened when, targets."""

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.bench import INTERRUPTED, SHARES, Environment, Load, Sample, parse_slo
from gateway.model.bench_figures import TICK, figures, in_flight, is_good, series, spread
from gateway.model.histogram import Histogram, percentile

times = st.floats(min_value=1e-6, max_value=1e4)


@st.composite
def samples(draw: Any) -> Sample:
    due = draw(st.floats(min_value=0, max_value=100))
    sent = due + draw(st.floats(min_value=0, max_value=1))
    pieces = draw(st.integers(min_value=0, max_value=50))
    first = sent + draw(st.floats(min_value=0, max_value=5)) if pieces else None
    end = (first or sent) + draw(st.floats(min_value=0, max_value=20))
    error = draw(st.sampled_from([None, None, None, "HTTP 500", "broke off", INTERRUPTED]))
    told = draw(st.none() | st.integers(min_value=0, max_value=100))
    return Sample(due, sent, first, end, pieces, 0.0, told, told, error if pieces else error or "no text")


@given(st.lists(times, min_size=2), st.sampled_from([0.25, 0.5, 0.75]))
def test_percentiles_lie_between_the_values_as_numpys_do(values: list[float], share: float) -> None:
    cuts = statistics.quantiles(values, n=4, method="inclusive")
    assert percentile(sorted(values), share) == pytest.approx(cuts[int(share * 4) - 1], rel=1e-9)


@given(st.lists(times, min_size=1), st.sampled_from(SHARES))
def test_a_histogram_is_within_one_per_cent_of_a_value_at_that_rank(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    ordered = sorted(values)
    rank = share * (len(values) - 1)
    low, high = ordered[int(rank)], ordered[min(int(rank) + 1, len(values) - 1)]
    assert low * 0.99 <= histogram.percentiles([share])[0] <= high * 1.01
    assert histogram.percentiles([0.0, 1.0])[1] <= max(values)
    assert histogram.total == pytest.approx(sum(values))


@given(st.lists(times, min_size=1))
def test_a_histograms_percentiles_ascend(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    found = histogram.percentiles(SHARES)
    assert found == sorted(found)
    assert min(values) <= found[0]


def test_pieces_that_came_together_are_no_time_apart() -> None:
    histogram = Histogram()
    for value in (0.0, 0.0, 0.0, 2.0):
        histogram.add(value)
    assert histogram.percentiles([0.5, 1.0]) == [0.0, pytest.approx(2.0, rel=0.01)]


def test_of_nothing_there_are_no_percentiles() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="no values"):
        Histogram().percentiles([0.5])
    assert spread([]) is None
    empty = figures([], Histogram(), {})
    assert (empty.requests, empty.requests_per_second, empty.ttft, empty.tokens_by) == (0, 0.0, None, "none")


@given(st.lists(samples()))
def test_every_request_is_counted_once(given_samples: list[Sample]) -> None:
    found = figures(given_samples, Histogram(), {})
    assert found.requests + found.interrupted == len(given_samples)
    assert found.succeeded + found.failed == found.requests
    assert sum(found.errors.values()) == found.failed
    assert found.interrupted == sum(sample.error == INTERRUPTED for sample in given_samples)
    if found.ttft is not None and found.e2e is not None:
        assert found.ttft.mean <= found.e2e.mean + 1e-9
        assert found.ttft.p50 <= found.e2e.p50 + 1e-9


@given(st.lists(samples(), min_size=1))
def test_what_is_under_way_is_the_same_by_seconds_and_on_average(given_samples: list[Sample]) -> None:
    counted = [sample for sample in given_samples if sample.error != INTERRUPTED]
    told = series(given_samples, {})
    assert sum(told.in_flight) * told.step == pytest.approx(sum(s.end - s.due for s in counted), abs=0.05, rel=0.01)
    assert sum(told.answered) * told.step == pytest.approx(sum(s.error is None for s in counted), abs=0.01)
    assert sum(told.failed) * told.step == pytest.approx(sum(s.error is not None for s in counted), abs=0.01)
    mean, most = in_flight(counted, 1.0)
    assert most <= len(counted)
    assert mean >= 0


def test_the_definitions() -> None:
    one = Sample(due=1.0, sent=1.25, first=1.5, end=3.5, pieces=3, longest_gap=1.5, prompt_tokens=7, output_tokens=5)
    assert (one.ttft, one.e2e, one.tpot) == (0.5, 2.5, 0.5)
    assert Sample(due=0, sent=0, first=0.1, end=0.3, pieces=3).tpot == pytest.approx(0.1)
    assert Sample(due=0, sent=0, first=0.1, end=0.1, pieces=1).tpot is None
    found = figures([one, Sample(due=0, sent=0, first=None, end=5, error="HTTP 429")], Histogram(), {"ttft": 0.6})
    assert (found.seconds, found.requests_per_second) == (5.0, 0.2)
    assert (found.output_tokens_per_second, found.total_tokens_per_second) == (1.0, 2.4)
    assert (found.good, found.good_per_second, found.tokens_by) == (1, 0.2, "usage")
    assert found.in_flight == pytest.approx(1.5)
    assert found.most_in_flight == 2
    assert found.lag is not None
    assert found.lag.greatest == 0.25


def test_good_requests_keep_below_every_target() -> None:
    one = Sample(due=0, sent=0, first=0.2, end=1.0, pieces=5, longest_gap=0.5)
    assert is_good(one, {"ttft": 0.2, "e2e": 1.0, "tpot": 0.2})
    assert not is_good(one, {"ttft": 0.2, "itl": 0.4})
    assert not is_good(Sample(due=0, sent=0, first=0.1, end=0.2, pieces=1, error="broke off"), {"e2e": 9})


def test_pieces_are_shown_as_tokens_when_they_came() -> None:
    one = Sample(due=0, sent=0, first=0.05, end=3.0, pieces=3, output_tokens=6)
    told = series([one], {0: 1, 10: 1, 25: 1})
    assert TICK == 0.1
    tokens = [told.tokens[int((tick + 0.5) * TICK / told.step)] * told.step for tick in (0, 10, 25)]
    assert tokens == pytest.approx([2, 2, 2])
    assert sum(told.tokens) * told.step == pytest.approx(6)


def test_targets_are_read_with_their_units() -> None:
    assert parse_slo("ttft=300ms, tpot=50,e2e=2s") == pytest.approx({"ttft": 0.3, "tpot": 0.05, "e2e": 2.0})
    for wrong, said in (("speed=3", "ttft, itl"), ("ttft=soon", "300ms"), ("", "METRIC=TIME")):
        with pytest.raises(ValueError, match=said):
            parse_slo(wrong)


def test_a_load_has_a_name() -> None:
    assert Load(kind="closed", concurrency=4).label == "4 at once"
    assert Load(kind="open", rate=2.5).label == "2.5/s"
    assert Load(kind="open", rate=2.5, burstiness=0.5).label == "2.5/s, burstiness 0.5"


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        (
            {"nodes": 2, "cpus": None, "memory": 2048, "time": 90},
            {"nodes": "2", "memory": "2048 MiB", "time": "90 min"},
        ),
        ({"memory": 0, "gpus": {"count": 0, "share": "none"}}, {"memory": "all of a node"}),
        ({"gpus": {"count": 2, "type": "a100", "share": "none"}}, {"gpus": "gpu:a100:2"}),
    ],
)
def test_resources_are_said_with_their_units(resources: dict[str, Any], said: dict[str, str]) -> None:
    words = dict.fromkeys(Environment.model_fields, "")
    around = Environment.model_validate({**words, "parameters": {}, "resources": resources})
    assert around.resources_said == said
