"""How long the loop rests: a share of the time for Slurm, and patience with one that is away."""

import pytest

from gateway.core import pace


def test_slurm_is_asked_for_a_sixth_of_the_time_at_most() -> None:
    assert pace.after_answer(looked=2.0, turned=2.5) == 10.0
    assert pace.after_answer(looked=0.01, turned=3.0) == 3.0
    assert pace.after_answer(looked=0.0, turned=0.0) == pace.SHORTEST
    assert pace.after_answer(looked=30.0, turned=30.0) == pace.LONGEST_REST


def test_one_answer_that_was_late_may_have_been_held_up() -> None:
    assert pace.believed(0.02, 0.0) == 0.02
    assert pace.believed(3600.0, 0.02) == 1.0
    assert pace.believed(3600.0, 8.0) == 16.0
    assert pace.believed(0.02, 16.0) == 0.02


def test_a_slurm_that_is_away_is_asked_ever_more_seldom_and_not_by_all_at_once() -> None:
    rests = [pace.after_silence(failures, 0.5, chance=1.0) for failures in range(1, 9)]
    assert rests[:4] == [0.5, 1.0, 2.0, 4.0]
    assert rests[-1] == pace.LONGEST_SILENCE
    assert pace.after_silence(8, 0.5, chance=0.0) == pace.LONGEST_SILENCE / 2


@pytest.mark.parametrize("failures", [1, 100, 10_000])
def test_it_is_asked_again_within_a_bounded_time(failures: int) -> None:
    assert pace.SHORTEST <= pace.after_silence(failures, 1.0, chance=0.99) <= pace.LONGEST_SILENCE


def test_inventories_of_large_clusters_are_rarer() -> None:
    assert pace.between_lists(0.01, 15.0) == 15.0
    assert pace.between_lists(2.0, 15.0) == 100.0
    assert pace.between_lists(60.0, 15.0) == pace.LONGEST_BETWEEN_LISTS
