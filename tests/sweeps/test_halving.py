"""Halving: who goes on among those that keep up with the baseline."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.halving import FEWEST, Halving, place_among
from sweeps.rule import StopConfig, is_open, judge

N, LOOKS = 160, (20, 160)
STEPS = tuple(range(100, 1100, 100))
STRICT = Halving(start=0.2, keep=0.5, apart=0.0)
SPREAD = 0.02
# Three seeds whose luck changes its side at every step.
BASELINES = [
    {step: dict.fromkeys(LOOKS, 100 * math.exp(luck * (-1) ** i * SPREAD)) for i, step in enumerate(STEPS)}
    for luck in (-1, 0, 1)
]


def _place(own, peers, halving=STRICT, seeds=3):
    return place_among(own, peers, halving, num_steps=1000, seeds=seeds)


def _flat(gap, until=1000):
    return {step: float(gap) for step in STEPS if step <= until}


@pytest.mark.parametrize(("step", "kept"), [(200, 8), (300, 5), (400, 4), (600, 2), (800, 2), (1000, 1)])
def test_half_go_on_with_each_doubling_of_the_step(step, kept):
    peers = [_flat(gap) for gap in range(1, 8)]
    for gap in (0.5, 1.5, 3.5, 6.5, 9.0):
        place = _place(_flat(gap, until=step), peers)
        better = sum(peer[step] < gap for peer in peers)
        assert (place.rank, place.of, place.kept) == (better + 1, 8, kept)
        assert place.left_behind == (better >= kept)


def test_keep_is_the_share_of_a_doubling():
    peers = [_flat(gap) for gap in range(1, 100)]
    for keep in (0.25, 0.5, 0.7):
        halving = replace(STRICT, keep=keep)
        for doublings in (0, 1, 2):
            place = _place(_flat(50, until=200 * 2**doublings), peers, halving)
            assert place.kept == math.floor(100 * keep**doublings + 1e-9)


def test_nobody_is_left_behind_before_the_start_or_among_too_few():
    peers = [_flat(-9)] * (FEWEST - 2)
    assert _place(_flat(9, until=800), peers) is None
    assert _place(_flat(9, until=800), [*peers, _flat(-9)]).left_behind
    assert _place(_flat(9, until=100), [_flat(-9)] * 9) is None
    assert _place({}, [_flat(-9)] * 9) is None


def test_only_those_that_have_come_as_far_are_held_against_it():
    short = [_flat(gap, until=300) for gap in range(-20, -10)]
    place = _place(_flat(9, until=400), short)
    assert (place.rank, place.of, place.kept, place.left_behind) == (1, 1, 5, False)
    # Those that were stopped have started, and count as such: of 10, five go on at twice the start.
    place = _place(_flat(9, until=400), [*short[:4], *[_flat(0)] * 5])
    assert (place.rank, place.of, place.kept, place.left_behind) == (6, 6, 5, True)


def test_who_came_early_is_held_against_those_that_come_later():
    own = _flat(1.0, until=800)
    assert _place(own, [_flat(2.0, until=200), _flat(3.0, until=200)]).left_behind is False
    assert _place(own, [_flat(-1.0), _flat(-2.0), _flat(3.0, until=200)]).left_behind is True


def test_equals_are_not_told_apart_by_luck():
    peers = [_flat(gap) for gap in (0.0, 0.1, 0.2, 0.3)]
    own, unit = _flat(1.0, until=1000), math.sqrt(2 / (1 + 1 / 3))
    assert _place(own, peers).left_behind
    assert not _place(own, peers, replace(STRICT, apart=1.01 / unit)).left_behind
    assert _place(own, peers, replace(STRICT, apart=0.99 / unit)).left_behind


def test_the_mean_of_two_evaluations_decides():
    peers = [_flat(0.0)] * 4
    assert not _place({**_flat(-4.0, until=900), 1000: 3.0}, peers).left_behind
    assert _place({**_flat(-4.0, until=900), 1000: 5.0}, peers).left_behind
    far = {**_flat(math.inf, until=900), 1000: -math.inf}
    assert _place(far, peers).beyond == pytest.approx(0.0)


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=12, unique=True), st.sampled_from(STEPS[1:]))
def test_the_best_always_goes_on_and_as_many_as_are_kept(gaps, step):
    curves = [_flat(gap, until=step) for gap in gaps]
    places = [_place(own, curves[:i] + curves[i + 1 :]) for i, own in enumerate(curves)]
    going_on = [place for place in places if not place.left_behind]
    assert {place.rank for place in going_on} == set(range(1, places[0].kept + 1))


def _curve(gap, until=1000, n=N):
    """A candidate so many standard deviations of a seed behind the baseline."""
    return {
        step: {look: 100 * math.exp(gap * SPREAD) for look in LOOKS if look <= n or step < until}
        for step in STEPS
        if step <= until
    }


CONFIG = StopConfig(grace=0.2, halving=STRICT)
PEERS = [_curve(gap) for gap in (-3, -2, -1)]


def test_the_verdict_tells_the_place_and_stops_one_that_beats_the_baseline():
    own = _curve(-0.5, until=400)
    verdict = judge(own, BASELINES, CONFIG, num_steps=1000, peers=PEERS)
    assert (verdict.stop, verdict.strikes) == (True, 0)
    assert (verdict.rank, verdict.ranked, verdict.kept) == (4, 4, 2)
    assert "0.4 spreads better than the baseline at step 400" in verdict.reason
    assert "halving leaves it behind: number 4 of 4 candidates, of which 2 go on" in verdict.reason
    best = judge(_curve(-9, until=400), BASELINES, CONFIG, num_steps=1000, peers=PEERS)
    assert (best.stop, best.rank) == (False, 1)
    without = judge(own, BASELINES, StopConfig(grace=0.2), num_steps=1000, peers=PEERS)
    assert (without.stop, without.rank, without.ranked, without.kept) == (False, None, 0, None)


def test_what_the_baseline_rule_stops_halving_does_not_save():
    peers = [_curve(gap) for gap in (20, 21, 22)]
    verdict = judge(_curve(9, until=400), BASELINES, CONFIG, num_steps=1000, peers=peers)
    assert (verdict.stop, verdict.rank, verdict.strikes) == (True, 1, 3)
    assert "in a row above the margin" in verdict.reason


def test_halving_may_begin_before_the_grace_ends():
    late = replace(CONFIG, grace=0.9)
    assert judge(_curve(9, until=400), BASELINES, late, num_steps=1000, peers=PEERS).stop
    assert not judge(_curve(9, until=400), BASELINES, late, num_steps=1000, peers=PEERS[:1]).stop


def test_nobody_is_left_behind_on_fewer_than_all_samples():
    for gap, expected in ((-0.5, True), (-9.0, False)):
        few = _curve(gap, until=400, n=20)
        assert not judge(few, BASELINES, CONFIG, num_steps=1000, peers=PEERS).stop
        looked = is_open(few, BASELINES, CONFIG, num_steps=1000, num_samples=N, peers=PEERS)
        assert looked is expected
    # Without anybody to be held against, the grace decides nothing.
    few, late = _curve(-9.0, until=400, n=20), replace(CONFIG, grace=0.9)
    assert not is_open(few, BASELINES, late, num_steps=1000, num_samples=N, peers=[])


def test_halving_finds_a_good_one_at_a_fraction_of_the_steps():
    """24 candidates in any order, ends known from the start: it is the arithmetic that is tested here, not the gain."""
    rng = np.random.default_rng(0)
    gaps = rng.permutation(np.arange(24))
    reached: list[dict[int, float]] = []
    for gap in gaps:
        own: dict[int, float] = {}
        for step in STEPS:
            own = {**own, step: float(gap)}
            place = _place(own, reached)
            if place is not None and place.left_behind:
                break
        reached.append(own)
    assert max(reached[int(np.argmin(gaps))]) == 1000
    assert 0.2 < sum(max(own) for own in reached) / (24 * 1000) < 0.65


@pytest.mark.parametrize(
    "change", [{"start": 0.0}, {"start": 1.0}, {"keep": 0.0}, {"keep": 1.0}, {"apart": -1.0}, {"apart": math.inf}]
)
def test_impossible_settings_are_refused(change):
    (name,) = change
    with pytest.raises(ValueError, match=rf"^{name}: got .* allowed is"):
        Halving(**change)
