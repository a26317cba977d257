"""Intervals of confirmed candidates, against scipy's own tests and against simulated sweeps whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sweeps.intervals import Difference, differences, level
from sweeps.looks import FLOOR


def _by_seed(values) -> dict[int, float]:
    return dict(enumerate(values))


def _log_width(difference: Difference) -> float:
    assert difference.low is not None
    assert difference.high is not None
    return math.log1p(difference.high / 100) - math.log1p(difference.low / 100)


def test_with_one_candidate_the_spread_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    baseline, candidate = np.exp(rng.normal(0, 0.02, 6)), 0.9 * np.exp(rng.normal(0, 0.02, 6))
    found = differences(_by_seed(baseline), {"c": _by_seed(candidate)}, first_seed=0)["c"]
    pairs = np.log(candidate / baseline)
    low, high = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
    assert (found.fresh, found.freedom, found.level) == (5, 5, 0.95)
    # The paired test has six pairs for its mean, we have the five fresh ones.
    assert _log_width(found) == pytest.approx((high - low) * math.sqrt(6 / 5))
    assert found.percent == pytest.approx(100 * math.expm1(pairs[1:].mean()))
    assert found.first_percent == pytest.approx(100 * math.expm1(pairs[0]))
    assert found.shift_percent == pytest.approx(100 * math.expm1(pairs[0] - pairs[1:].mean()))


def test_the_luck_of_a_seed_that_all_runs_share_does_not_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    own, shared = rng.normal(0, 0.01, (3, 4)), np.array([0.0, 0.5, -0.5, 0.2])
    widths = []
    for luck in (0 * shared, shared):
        runs = np.exp(own + luck)
        found = differences(_by_seed(runs[0]), {"a": _by_seed(runs[1]), "b": _by_seed(runs[2])}, first_seed=0)
        widths.append(_log_width(found["a"]))
    assert widths[0] == pytest.approx(widths[1])


def test_a_second_candidate_makes_two_seeds_worth_something() -> None:
    """One degree of freedom takes 12.7 standard errors, two take 4.3."""
    baseline, runs = {0: 1.0, 1: 1.02}, {"a": {0: 0.9, 1: 0.93}, "b": {0: 0.91, 1: 0.92}}
    alone = differences(baseline, {"a": runs["a"]}, first_seed=0)["a"]
    both = differences(baseline, runs, first_seed=0)["a"]
    assert (alone.freedom, both.freedom) == (1, 2)
    assert _log_width(alone) > 2 * _log_width(both)
    left = math.log(0.93 / 0.9) - math.log(1.02)  # what the pairs differ by
    assert _log_width(alone) == pytest.approx(2 * stats.t.ppf(0.975, 1) * abs(left) / 2 * math.sqrt(2))


def test_more_than_two_candidates_need_wider_intervals() -> None:
    assert level(1) == level(2) == 0.95
    assert level(4) == pytest.approx(0.975)


def test_sides() -> None:
    baseline = {0: 1.0, 1: 1.001, 2: 0.999}
    found = differences(baseline, {"a": {0: 0.5, 1: 0.5, 2: 0.501}}, first_seed=0)["a"]
    assert (found.better("min"), found.worse("min"), found.better("max"), found.worse("max")) == (
        True,
        False,
        False,
        True,
    )
    level_ = differences(baseline, {"a": {0: 0.5, 1: 1.0, 2: 1.0}}, first_seed=0)["a"]
    assert not level_.better("min")
    assert not level_.worse("min")
    assert level_.shift_percent is not None
    assert level_.shift_percent < -49


def test_seeds_that_are_missing_are_missed_and_no_more() -> None:
    baseline = {0: 1.0, 1: 1.01, 2: 0.99}
    whole = {0: 0.9, 1: 0.92, 2: 0.88}
    found = differences(baseline, {"a": whole, "b": {0: 0.95, 2: 0.96}, "c": {0: 0.8}}, first_seed=0)
    assert sorted(found) == ["a", "b"]
    assert (found["a"].fresh, found["b"].fresh) == (2, 1)
    assert found["a"].freedom == 3  # 9 cells, 4 runs, 3 seeds, c's only cell says nothing
    assert differences({}, {"a": whole}, first_seed=0) == {}
    assert differences(baseline, {}, first_seed=0) == {}
    one = differences({0: 1.0, 1: 1.0}, {"a": {1: 0.5}}, first_seed=0)["a"]
    assert (one.low, one.high, one.freedom, one.first_percent) == (None, None, 0, None)
    assert not one.better("min")


def test_a_value_without_a_logarithm_is_as_if_its_seed_were_away() -> None:
    found = differences({0: 1.0, 1: 1.0, 2: 1.1}, {"a": {0: 0.5, 1: -0.01, 2: 0.6}}, first_seed=0)["a"]
    assert found.fresh == 1


def test_the_same_run_twice_is_no_certainty() -> None:
    found = differences({0: 1.0, 1: 1.0, 2: 1.0}, {"a": {0: 1.0, 1: 1.0, 2: 1.0}}, first_seed=0)["a"]
    assert found.percent == 0
    assert _log_width(found) == pytest.approx(2 * stats.t.ppf(0.975, 2) * FLOOR)


@pytest.mark.parametrize(("num_candidates", "k", "seeds"), [(8, 1, 2), (8, 2, 2), (24, 2, 3), (24, 4, 3)])
def test_a_winner_that_is_none_is_rarely_believed(num_candidates: int, k: int, seeds: int) -> None:
    """No candidate differs from the baseline, the best of many are confirmed, and the best of those is judged."""
    rng = np.random.default_rng(2)
    wrong, sweeps = 0, 1000
    for _ in range(sweeps):
        luck = rng.normal(0, 0.02, seeds)
        baseline = np.exp(luck + rng.normal(0, 0.01, seeds))
        runs = np.exp(luck + rng.normal(0, 0.01, (num_candidates, seeds)))
        chosen = runs[np.argsort(runs[:, 0])[:k]]
        found = differences(_by_seed(baseline), {str(i): _by_seed(run) for i, run in enumerate(chosen)}, first_seed=0)
        wrong += found[str(int(chosen.mean(1).argmin()))].better("min")
    assert wrong / sweeps <= 0.065  # 5 %, and two standard errors of a thousand sweeps
