from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri, stdtr

from sweeps import looks, rule
from sweeps.looks import FLOOR
from sweeps.rule import StopConfig

N = 160
STEPS = tuple(range(100, 1100, 100))
EAGER = StopConfig(margin=1.0, patience=2, grace=0.0)
THREE = [dict.fromkeys(STEPS, 100.0 + seed) for seed in (-3, 0, 3)]
# A seed of THREE is as lucky at every step: all steps say no more of the spread than one, two degrees of freedom.
TWO = float(ndtri(stdtr(2, 2.0)))  # the margin that is corrected to 2 there
LEVEL = StopConfig(margin=TWO, patience=2, grace=0.0)

values = st.floats(min_value=1e-3, max_value=1e3)
configs = st.builds(
    StopConfig,
    margin=st.floats(min_value=0, max_value=4),
    patience=st.integers(min_value=1, max_value=4),
    grace=st.floats(min_value=0, max_value=1),
)


def curves(steps=STEPS):
    return st.fixed_dictionaries(dict.fromkeys(steps, values))


baselines = st.lists(curves(), min_size=2, max_size=5)


def _on_all(curve):
    """Values as those of one number of samples."""
    return {step: {N: value} for step, value in curve.items()}


def compare(candidate, references):
    return rule.compare(_on_all(candidate), list(map(_on_all, references)))


def pooled_spread(references):
    return looks.pooled_spread(list(map(_on_all, references)))


def _judge(candidate, references=THREE, config=LEVEL, mode="min"):
    return rule.judge(_on_all(candidate), list(map(_on_all, references)), config, num_steps=1000, mode=mode)


def _worse_by(gaps):
    """A curve with these gaps, in the rule's own units, against THREE at the first steps."""
    spread = pooled_spread(THREE)
    means = {gap.step: gap.baseline_mean for gap in compare(THREE[0], THREE)}
    unit = spread * math.sqrt(1 + 1 / 3)
    return {step: means[step] * math.exp(gap * unit) for step, gap in zip(STEPS, gaps, strict=False)}


@given(curves(), baselines, configs, st.floats(min_value=1e-6, max_value=1e6))
def test_the_unit_of_the_metric_changes_nothing(candidate, references, config, factor):
    before = _judge(candidate, references, config)
    after = _judge(
        {step: factor * value for step, value in candidate.items()},
        [{step: factor * value for step, value in curve.items()} for curve in references],
        config,
    )
    near_margin = [abs(gap.gap - config.margin) < 1e-6 for gap in compare(candidate, references)]
    if not any(near_margin):
        assert (after.stop, after.strikes, after.judged_step) == (before.stop, before.strikes, before.judged_step)
    if before.gap is not None:
        assert after.gap == pytest.approx(before.gap, rel=1e-6, abs=1e-6)


@given(baselines, configs)
def test_a_candidate_equal_to_the_baseline_mean_is_never_stopped(references, config):
    mean = {step: math.exp(np.mean([math.log(curve[step]) for curve in references])) for step in STEPS}
    assert not _judge(mean, references, config).stop


@given(curves(), configs)
def test_a_candidate_equal_to_equal_baselines_is_never_stopped(curve, config):
    assert not _judge(curve, [dict(curve)] * 3, config).stop


@given(baselines, configs, st.lists(st.floats(min_value=0.01, max_value=1), min_size=len(STEPS), max_size=len(STEPS)))
def test_a_candidate_better_at_every_step_is_never_stopped(references, config, factors):
    mean = {step: math.exp(np.mean([math.log(curve[step]) for curve in references])) for step in STEPS}
    better = {step: mean[step] * factor for step, factor in zip(STEPS, factors, strict=True)}
    assert not _judge(better, references, config).stop


@given(baselines, configs, st.integers(min_value=1, max_value=len(STEPS)))
def test_a_candidate_far_worse_is_stopped_once_enough_steps_are_judged(references, config, reached):
    spread = pooled_spread(references)
    far = {step: max(curve[step] for curve in references) * math.exp(10 * spread) for step in STEPS[:reached]}
    verdict = _judge(far, references, config)
    judged = [step for step in far if step >= config.grace * 1000]
    assert verdict.stop == (len(judged) >= config.patience)
    assert verdict.strikes == len(judged)


@given(curves(), baselines, configs, st.floats(min_value=0, max_value=3), st.integers(min_value=0, max_value=3))
def test_a_larger_margin_or_patience_stops_nothing_more(candidate, references, config, more_margin, more_patience):
    milder = replace(config, margin=config.margin + more_margin, patience=config.patience + more_patience)
    if _judge(candidate, references, milder).stop:
        assert _judge(candidate, references, config).stop


@given(curves(), baselines, configs)
def test_max_mirrors_min(candidate, references, config):
    def inverse(curve):
        return {step: 1 / value for step, value in curve.items()}

    low, high = (
        _judge(candidate, references, config),
        _judge(inverse(candidate), list(map(inverse, references)), config, mode="max"),
    )
    near_margin = [abs(gap.gap - config.margin) < 1e-6 for gap in compare(candidate, references)]
    if not any(near_margin):
        assert (low.stop, low.strikes) == (high.stop, high.strikes)
    if low.gap is not None:
        assert high.gap == pytest.approx(low.gap, rel=1e-6, abs=1e-6)


@given(curves(), baselines)
def test_the_gap_is_its_definition(candidate, references):
    logs = np.log([[curve[step] for step in STEPS] for curve in references])
    spread = pooled_spread(references)
    expected = (np.log([candidate[step] for step in STEPS]) - logs.mean(0)) / (
        spread * math.sqrt(1 + 1 / len(references))
    )
    gaps = compare(candidate, references)
    assert [gap.gap for gap in gaps] == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-6)
    assert [gap.baseline_mean for gap in gaps] == pytest.approx(np.exp(logs.mean(0)).tolist())


@given(st.lists(curves(), min_size=3, max_size=6))
def test_spread_is_numpys_pooled_standard_deviation(references):
    logs = np.log([[curve[step] for step in STEPS] for curve in references])
    expected = math.sqrt(logs.var(axis=0, ddof=1).mean())
    assert pooled_spread(references) == pytest.approx(expected if expected >= 1e-9 else FLOOR, rel=1e-6)


def test_spread_pools_steps_by_their_degrees_of_freedom():
    rng = np.random.default_rng(0)
    lengths = (10, 7, 4, 1)
    references = [dict(zip(STEPS[:n], np.exp(rng.normal(size=n)).tolist(), strict=True)) for n in lengths]
    squares, freedom = 0.0, 0
    for step in STEPS:
        logs = np.log([curve[step] for curve in references if step in curve])
        if len(logs) > 1:
            squares, freedom = squares + ((logs - logs.mean()) ** 2).sum(), freedom + len(logs) - 1
    assert pooled_spread(references) == pytest.approx(math.sqrt(squares / freedom))


def test_two_seeds_that_agree_are_held_apart_by_the_floor():
    assert pooled_spread([{1: 10.0}, {1: 10.0}]) == FLOOR
    assert pooled_spread([{1: 10.0}, {1: 10.001}]) == FLOOR
    assert pooled_spread([{1: 10.0}, {1: 12.0}]) == pytest.approx(math.log(1.2) / math.sqrt(2))


def test_three_seeds_have_the_floor_only_where_they_are_equal():
    assert pooled_spread([{1: 10.0}, {1: 10.001}, {1: 10.002}]) == pytest.approx(1e-4, rel=1e-3)
    assert pooled_spread([{1: 10.0}] * 3) == FLOOR
    assert pooled_spread([{1: 0.1 + 0.2}, {1: 0.3}, {1: 0.3}]) == FLOOR  # they differ in the last bit


@pytest.mark.parametrize("references", [[], [{1: 5.0}], [{1: 5.0}, {2: 5.0}], [{}, {}, {}]])
def test_without_two_seeds_at_a_step_there_is_no_spread_and_no_judgement(references):
    assert pooled_spread(references) is None
    verdict = _judge({1: 1e9, 2: 1e9, 3: 1e9}, references)
    assert not verdict.stop
    assert (verdict.judged_step, verdict.gap, verdict.seeds, verdict.strikes) == (None, None, 0, 0)


def test_only_steps_that_two_seeds_have_reached_are_judged():
    references = [{100: 10.0, 200: 10.0, 300: 10.0}, {100: 10.5, 200: 10.5}, {100: 9.5}]
    candidate = {100: 99.0, 150: 99.0, 200: 99.0, 300: 99.0, 400: 99.0}
    assert [(gap.step, gap.seeds) for gap in compare(candidate, references)] == [(100, 3), (200, 2)]
    verdict = _judge(candidate, references)
    assert (verdict.judged_step, verdict.seeds, verdict.strikes, verdict.stop) == (200, 2, 2, True)


def test_grace_is_a_fraction_of_the_run_and_its_end_is_judged():
    candidate = _worse_by([9, 9, 9, 9])
    for grace, strikes in ((0.0, 4), (0.1, 4), (0.2, 3), (0.25, 2), (0.4, 1), (0.41, 0)):
        verdict = _judge(candidate, config=StopConfig(margin=TWO, patience=4, grace=grace))
        assert verdict.strikes == strikes, grace


@pytest.mark.parametrize(
    ("gaps", "strikes", "stop"),
    [
        ([3, 0, 3], 1, False),
        ([3, 3, 0], 0, False),
        ([0, 3, 3], 2, True),
        ([3, 1.99, 3, 1.99, 3], 1, False),
        ([3, 2.01, 2.01], 3, True),
        ([1.99] * 10, 0, False),
    ],
)
def test_only_strikes_in_a_row_up_to_now_count(gaps, strikes, stop):
    verdict = _judge(_worse_by(gaps))
    assert (verdict.strikes, verdict.stop) == (strikes, stop)


def test_catching_up_judges_every_step_that_was_passed():
    candidate = _worse_by([4, 4, 4])
    behind = [{100: curve[100]} for curve in THREE]
    first = _judge(candidate, behind)
    assert (first.stop, first.judged_step) == (False, 100)
    later = _judge(_worse_by([4, 4, 4, 4]), THREE)
    assert (later.stop, later.strikes, later.judged_step) == (True, 4, 400)


def test_values_at_or_below_zero():
    for value in (0.0, -1.0):
        better = _judge({100: value, 200: value})
        assert (better.gap, better.stop) == (-math.inf, False)
        worse = _judge({100: value, 200: value}, mode="max")
        assert (worse.gap, worse.stop) == (math.inf, True)
    # A baseline value that has no logarithm is left out, as if its seed had not come there.
    assert compare({100: 5.0}, [{100: 0.0}, {100: 5.0}]) == []
    assert compare({100: 5.0}, [{100: -1.0}, {100: 5.0}, {100: 6.0}])[0].seeds == 2


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_value_that_is_not_finite_is_infinitely_worse(value, mode):
    once = _judge({100: 100.0, 200: value}, mode=mode)
    assert (once.gap, once.strikes, once.stop) == (math.inf, 1, False)
    assert _judge({100: value, 200: value}, mode=mode).stop


def test_a_step_is_judged_once_enough_seeds_have_passed_it_and_then_with_all_before():
    candidate, three_seeds = _worse_by([9, 9, 9]), replace(LEVEL, min_seeds=3)
    for reached, judged, strikes in (((300, 300, 0), None, 0), ((300, 300, 100), 100, 1), ((300, 300, 300), 300, 3)):
        there = [{s: v for s, v in curve.items() if s <= end} for curve, end in zip(THREE, reached, strict=True)]
        verdict = _judge(candidate, there, three_seeds)
        assert (verdict.judged_step, verdict.strikes, verdict.stop) == (judged, strikes, strikes >= 2)
        assert _judge(candidate, there, LEVEL).judged_step == 300


def test_the_forecast_is_the_line_over_the_logarithm_of_the_step():
    gaps = dict(zip(STEPS, (5.0, 3.5, 3.0, 2.2, 1.1), strict=False))
    slope, start = np.polyfit(np.log(list(gaps)), list(gaps.values()), 1)
    verdict = _judge(_worse_by(list(gaps.values())))
    assert verdict.forecast == pytest.approx(start + slope * math.log(1000))
    assert _judge(_worse_by([5, 4])).forecast is None
    # It is told and decides nothing: this one would be ahead at the end, and is stopped.
    falling = _judge(_worse_by([9, 6, 3]))
    assert falling.forecast < -2
    assert falling.stop


def test_the_share_of_equally_good_candidates_that_are_stopped_is_small():
    """10 looks, independent noise, three seeds: margin 2 with two strikes in a row stops about 1 in 100.

    With the baseline's mean known it would be 0.005, and 0.21 for one strike; that all looks share one mean costs some.
    """
    random_source, stopped, runs = random.Random(0), {}, 300
    rules = {
        name: StopConfig(margin=m, patience=p, grace=0) for name, m, p in (("2x2", 2, 2), ("2x1", 2, 1), ("1x2", 1, 2))
    }
    for _ in range(runs):
        drawn = [{step: math.exp(random_source.gauss(3, 0.02)) for step in STEPS} for _ in range(4)]
        for name, config in rules.items():
            shown = ({step: drawn[0][step] for step in STEPS[:count]} for count in range(1, len(STEPS) + 1))
            stopped[name] = stopped.get(name, 0) + any(_judge(look, drawn[1:], config).stop for look in shown)
    rates = {name: count / runs for name, count in stopped.items()}
    assert rates["2x2"] < 0.05
    assert 0.1 < rates["2x1"] < 0.4
    assert 0.08 < rates["1x2"] < 0.35


def test_a_candidate_two_spreads_worse_is_caught():
    """The same with a candidate that is 2 standard deviations of the difference worse: 0.984 at margin 1.5."""
    random_source, runs = random.Random(1), 200
    config, shift = StopConfig(margin=1.5, patience=2, grace=0), 2 * 0.02 * math.sqrt(4 / 3)
    caught = 0
    for _ in range(runs):
        seeds = [{step: math.exp(random_source.gauss(3, 0.02)) for step in STEPS} for _ in range(3)]
        candidate = {step: math.exp(random_source.gauss(3 + shift, 0.02)) for step in STEPS}
        caught += any(_judge({s: candidate[s] for s in STEPS[:n]}, seeds, config).stop for n in range(1, 11))
    assert 0.93 < caught / runs <= 1


@pytest.mark.parametrize(
    ("gaps", "reason"),
    [
        ([], "not judged yet: in grace, or the baseline has not come this far"),
        ([-1.26], "1.3 spreads better than the baseline at step 100"),
        ([1.5], "1.5 spreads worse than the baseline at step 100"),
        (
            [4, 3, 1, -1],
            "1.0 spreads better than the baseline at step 400; on this trend 3.5 spreads better at the end",
        ),
        ([3.14], "3.1 spreads worse than the baseline at step 100, strike 1 of 2"),
        ([5, 3.14], "3.1 spreads worse than the baseline at step 200, 2 evaluations in a row above the margin of 2"),
    ],
)
def test_reasons(gaps, reason):
    assert _judge(_worse_by(gaps)).reason == reason


def test_a_verdict_carries_the_numbers_it_rests_on():
    verdict = _judge(_worse_by([1.0, 2.5]))
    assert verdict.value == _worse_by([1.0, 2.5])[200]
    assert verdict.baseline_mean == pytest.approx((97 * 100 * 103) ** (1 / 3))
    assert verdict.spread == pooled_spread(THREE)
    assert (verdict.judged_step, verdict.seeds, verdict.strikes, verdict.stop) == (200, 3, 1, False)
    assert (verdict.num_samples, verdict.error) == (N, 0.0)
    assert verdict.gap == pytest.approx(2.5)
    assert (verdict.margin, verdict.freedom, verdict.struck) == (pytest.approx(2.0), 2, (200,))
    assert _judge(_worse_by([3, 1, 3, 4])).struck == (300, 400)


@pytest.mark.parametrize(
    "change",
    [
        {"margin": -0.1},
        {"margin": math.inf},
        {"margin": math.nan},
        {"patience": 0},
        {"grace": -0.1},
        {"grace": 1.1},
        {"grace": math.nan},
        {"min_seeds": 1},
        {"evaluation": "fast"},
    ],
)
def test_impossible_settings_are_refused(change):
    (name,) = change
    with pytest.raises(ValueError, match=rf"^{name}: got .* allowed is"):
        StopConfig(**change)
