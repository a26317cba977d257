"""The benchmark of stopping rules: a sweep is played by the clock, and nobody sees the future."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import stopping
from benchmarks.stopping_curves import Problem, simulated
from benchmarks.stopping_rules import Asha, Entry, Ours, entries, rule_of
from sweeps.halving import Halving
from sweeps.rule import StopConfig


def _problem(levels, *, steps=(100, 200, 300, 400)) -> Problem:
    """Flat curves: candidates at these distances from a baseline at 0 with a spread of 1 %."""
    levels, count = np.array(levels, dtype=float), len(steps)
    return Problem(
        group="0",
        steps=np.array(steps),
        baselines=np.array([[luck * (-1) ** i * 0.01 for i in range(count)] for luck in (-1, 0, 1)]),
        candidates=np.repeat(levels[:, None], count, axis=1),
        truth=levels,
        spread=0.01,
    )


class _Watching:
    """Stops nobody, and remembers what it has been shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []

    def stops(self, seen, candidate):
        self.shown.append((candidate, tuple(seen.of_baselines), tuple(seen.of_candidates)))
        return False


def test_four_trials_at_a_time_by_the_clock():
    watching = _Watching()
    ended = stopping.play(_problem([0.0] * 3), watching, [2, 0, 1])
    assert ended.tolist() == [3, 3, 3]
    # Three baselines and the first candidate start together; the other two when those have ended.
    assert watching.shown[0] == (2, (1, 1, 1), (0, 0, 1))
    assert watching.shown[3] == (0, (4, 4, 4), (1, 0, 4))
    assert watching.shown[4] == (1, (4, 4, 4), (1, 1, 4))


def test_the_products_rule_stops_and_the_figures_say_so():
    problem = _problem([0.5, -0.5, 0.001])
    ended = stopping.play(problem, Ours(problem, StopConfig(grace=0.25)), [0, 1, 2])
    assert ended.tolist() == [1, 3, 3]
    made = stopping.outcome(problem, ended)
    assert made.compute == pytest.approx((0.5 + 1 + 1) / 3)
    assert (made.lost, made.better, made.stopped_equals, made.equals, made.best_lost) == (0, 1, 0, 1, 0)
    assert made.regret == pytest.approx(0)
    worst = stopping.outcome(problem, np.array([3, 1, 3]))
    # The best was stopped; 0.001 is not below the baseline's mean, so the winner is the baseline.
    assert (worst.lost, worst.best_lost, worst.has_best) == (1, 1, 1)
    assert worst.regret == pytest.approx(0.5)


def test_halving_and_asha_leave_the_worse_ones_behind():
    problem = _problem([-0.1 * i for i in range(8)])
    order = list(range(8))[::-1]  # the best first
    halved = stopping.play(problem, Ours(problem, StopConfig(grace=0.25, halving=Halving(start=0.25))), order)
    asha = stopping.play(problem, Asha(problem, eta=2, first=0.25), order)
    for ended in (halved, asha):
        assert ended[7] == 3
        assert ended[0] < 3
    assert stopping.outcome(problem, halved).regret == pytest.approx(0)


@pytest.mark.parametrize("entry", [entry for entry in entries() if entry.headline], ids=lambda entry: entry.label)
def test_every_rule_plays_a_sweep(entry):
    problems = list(simulated(2, num_seeds=3, num_candidates=6, evaluations=10))
    told = stopping.figures(stopping.outcomes(entry, problems))
    assert set(told) == set(stopping.FIGURES)
    for value, low, high in told.values():
        assert low <= value <= high
    assert told["compute"][0] <= 100
    if entry.family == "no stopping":
        assert (told["compute"][0], told["lost"][0], told["best lost"][0]) == (100, 0, 0)


def test_a_rule_without_a_baseline_is_not_ours():
    problem = _problem([0.0] * 3)
    assert isinstance(rule_of(Entry(family="baseline rule", settings={"margin": 1}), problem), Ours)
    assert isinstance(rule_of(Entry(family="ASHA", settings={"eta": 2, "first": 0.25}), problem), Asha)
