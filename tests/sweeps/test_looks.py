"""Nested numbers of samples: what few say of all, when few are enough, and that enough is the same verdict."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, norm
from scipy.stats import t as student

from sweeps.looks import FLOOR, latest, measured_spread, most_samples, on_samples, pooled_spread, prediction_errors
from sweeps.rule import CLEAR, StopConfig, compare, is_open, judge

LOOKS = (20, 40, 80, 160)
N = LOOKS[-1]
STEPS = (10, 20, 30, 40)
NO_GRACE = StopConfig(grace=0.0)

scores = st.fixed_dictionaries(dict.fromkeys(LOOKS, st.floats(min_value=1e-3, max_value=1e3)))
curves = st.fixed_dictionaries(dict.fromkeys(STEPS, scores))
baselines = st.lists(curves, min_size=2, max_size=4)


def _gaussian(rng, *, steps, num_samples=N, level=5.0, train=0.02, sample=0.2):
    """A curve whose logarithms are means over nested Gaussian samples, plus training's own noise at each step."""
    curve = {}
    for step in steps:
        noise = np.cumsum(rng.normal(0, sample, num_samples)) / np.arange(1, num_samples + 1)
        centre = level + rng.normal(0, train)
        curve[step] = {n: math.exp(centre + noise[n - 1]) for n in LOOKS}
    return curve


def _upto(curve, step, num_samples=N):
    """All looks before `step`, and at it those up to `num_samples`."""
    known = {s: dict(at) for s, at in curve.items() if s < step}
    return {**known, step: {n: value for n, value in curve[step].items() if n <= num_samples}}


def _evaluate(curve, references, config, *, step, num_steps, known):
    """The looks at `step` until it is no longer open, as a worker makes them, added to `known`."""
    for n in LOOKS:
        known = {**known, step: _upto(curve, step, n)[step]}
        if not is_open(known, references, config, num_steps=num_steps, num_samples=N):
            break
    return known


def _flat(value, steps=STEPS, looks=LOOKS):
    return {step: dict.fromkeys(looks, value) for step in steps}


PAIR = [_flat(100.0), _flat(100.0)]  # the floors hold: s_N = 1 %, e_n = 1 % * sqrt(N/n - 1)
UNIT = FLOOR * math.sqrt(1.5)


def _at_gap(gap, n, step=10):
    """A candidate at `step` after n samples, `gap` spreads worse than PAIR."""
    return {step: {look: 100 * math.exp(gap * UNIT) for look in LOOKS if look <= n}}


def _open(candidate, references=PAIR, config=NO_GRACE, **change):
    return is_open(candidate, references, config, **{"num_steps": 40, "num_samples": N, **change})


def test_most_samples_and_values():
    curve = {10: {20: 1.0, 40: 2.0}, 20: {20: 3.0}}
    assert most_samples([curve, {5: {30: 1.0}}]) == 40
    assert most_samples([]) == 0
    assert on_samples(curve, 20) == {10: 1.0, 20: 3.0}
    assert on_samples(curve, 40) == {10: 2.0}
    assert latest(curve[10]) == 2.0


def test_one_number_of_samples_gives_the_numbers_it_always_gave():
    """Golden values: the gaps are those of the rule before it knew of looks."""
    values = [{70: 512.2, 140: 433.1, 210: 371.9, 280: 330.4}, {70: 519.9, 140: 428.7, 210: 377.0, 280: 325.8}]
    two = [{step: {N: value} for step, value in curve.items()} for curve in values]
    three = [*two, {70: {N: 500.1}, 140: {N: 440.0}}]
    candidate = {step: {N: value} for step, value in {70: 530.1, 140: 455.5, 210: 401.2, 280: 322.0}.items()}
    expected = [2.195546112853735, 4.534226440536861, 5.635864538859832, -1.530304294451101]
    assert [gap.gap for gap in compare(candidate, two)] == pytest.approx(expected, rel=1e-12)
    expected = [2.195553395059497, 2.8549632046647506, 3.8258916680118613, -1.0388430043507917]
    assert [gap.gap for gap in compare(candidate, three)] == pytest.approx(expected, rel=1e-12)
    assert (pooled_spread(two), pooled_spread(three)) == (0.01, pytest.approx(0.014730852381370563, rel=1e-12))
    verdict = judge(_upto(candidate, 210), two, StopConfig(), num_steps=280)
    # The estimate of 0.95 % is below the floor, and rests on 3.9 degrees of freedom: a margin of 2 is 2.7 floors.
    assert (verdict.stop, verdict.strikes, verdict.gap) == (True, 2, pytest.approx(5.635864538859832))
    assert verdict.reason == (
        "5.6 spreads worse than the baseline at step 210, 2 evaluations in a row above the margin of 2.7; "
        "on this trend 6.6 spreads worse at the end"
    )


@given(baselines)
def test_fewer_samples_never_predict_better(references):
    errors = prediction_errors(references)
    assert sorted(errors) == list(LOOKS)
    assert errors[N] == 0
    for fewer, more in itertools.pairwise(LOOKS):
        assert errors[fewer] >= errors[more]
        assert errors[fewer] > 0


def _seeds(rng, *, num_seeds, num_steps, carried=0.0, spread=0.02):
    """Curves that differ by their luck alone, of which `carried` goes on from one step to the next."""
    curves = []
    for _ in range(num_seeds):
        luck = rng.normal()
        curve = {}
        for step in range(num_steps):
            luck = carried * luck + math.sqrt(1 - carried**2) * rng.normal() if step else luck
            curve[step] = {N: math.exp(3 + spread * luck)}
        curves.append(curve)
    return curves


@pytest.mark.parametrize(
    ("num_seeds", "num_steps", "carried", "margin"),
    [(3, 1, 0.0, 2.0), (3, 10, 0.0, 2.0), (3, 10, 0.6, 2.0), (4, 6, 0.9, 1.0), (5, 20, 0.5, 1.5), (2, 10, 0.5, 2.0)],
)
def test_the_corrected_margin_is_exceeded_as_rarely_as_a_normal_exceeds_it(num_seeds, num_steps, carried, margin):
    """Equal candidates, a spread of 2 %: without the correction the first case is exceeded by 9 %, not by 2.3 %."""
    rng, runs, exceeded, plainly = np.random.default_rng(5), 2000, 0, 0
    for _ in range(runs):
        *references, candidate = _seeds(rng, num_seeds=num_seeds + 1, num_steps=num_steps, carried=carried)
        gap = compare({0: candidate[0]}, references)[0].gap
        exceeded += gap > measured_spread(references).corrected(margin)
        plainly += gap > margin
    nominal = norm.sf(margin)
    assert exceeded / runs == pytest.approx(nominal, rel=0.35)
    if num_steps == 1:
        assert plainly / runs > 3 * nominal


def test_the_floor_is_no_estimate_and_needs_no_correction():
    equal = measured_spread(PAIR)
    assert (equal.value, equal.estimate, equal.corrected(2.0)) == (FLOOR, 0.0, 2.0)
    # Half a floor apart by one degree of freedom: t says 13.97 times 0.5, the floor at least 2.
    references = [{1: {N: 1.0}}, {1: {N: math.exp(0.5 * FLOOR * math.sqrt(2))}}]
    half = measured_spread(references)
    assert (half.value, half.estimate, half.freedom) == (FLOOR, pytest.approx(FLOOR / 2), 1)
    assert half.corrected(2.0) == pytest.approx(student.ppf(norm.cdf(2), 1) / 2)


def test_steps_that_repeat_a_seeds_luck_add_no_freedom():
    rng = np.random.default_rng(3)
    independent, persistent = (
        np.mean([measured_spread(_seeds(rng, num_seeds=3, num_steps=40, carried=c)).freedom for _ in range(30)])
        for c in (0.0, 0.9)
    )
    assert 70 < independent <= 80
    assert 4 < persistent < 14  # 80 (1 - 0.81) / (1 + 0.81) = 8.4
    assert measured_spread([_flat(100.0), _flat(101.0), _flat(103.0)]).freedom == 2


@given(baselines)
def test_the_spread_is_that_on_all_samples(references):
    alone = [{step: {N: at[N]} for step, at in curve.items()} for curve in references]
    assert pooled_spread(references) == pooled_spread(alone)


def test_prediction_errors_are_numpys_between_seeds():
    rng = np.random.default_rng(0)
    references = [_gaussian(rng, steps=STEPS, sample=1.0) for _ in range(3)]
    errors = prediction_errors(references)
    for n in LOOKS[:-1]:
        ratios = np.log([[curve[step][n] / curve[step][N] for step in STEPS] for curve in references])
        freedom = 2 * len(STEPS)
        expected = math.sqrt(ratios.var(axis=0, ddof=1).mean() * freedom / chi2.ppf(0.1, freedom))
        assert errors[n] == pytest.approx(expected), n


def test_few_seeds_are_trusted_less():
    rng = np.random.default_rng(2)
    references = [_gaussian(rng, steps=range(200), sample=0.5) for _ in range(2)]
    many = prediction_errors(references)[20]
    share = np.mean([prediction_errors([{s: c[s]} for c in references])[20] >= many / 1.07 for s in range(200)])
    assert share >= 0.85  # one step alone has one degree of freedom, and is still enough 9 times in 10


def test_prediction_errors_find_the_true_ones():
    """Of a mean of independent samples the error is sample * sqrt(1/n - 1/N), whatever training's own noise."""
    rng = np.random.default_rng(1)
    references = [_gaussian(rng, steps=range(200), sample=0.5, train=0.3) for _ in range(3)]
    errors = prediction_errors(references)
    for n in LOOKS[:-1]:
        assert errors[n] == pytest.approx(0.5 * math.sqrt(1 / n - 1 / N), rel=0.12)


def test_a_bias_that_all_seeds_share_is_no_error():
    references = [_flat(100.0) for _ in range(3)]
    for curve in references:
        for at in curve.values():
            at.update({n: value * (1 + 10 / n) for n, value in at.items()})
    assert prediction_errors(references)[20] == pytest.approx(FLOOR * math.sqrt(7))
    candidate = {10: {20: 100 * 1.5}}
    assert compare(candidate, references)[0].gap == pytest.approx(0, abs=1e-9)


def test_equal_numbers_of_samples_only():
    """The largest n that the candidate has and two seeds have; never one n against another."""
    references = [{10: {20: 10.0, 40: 20.0}}, {10: {20: 10.0, 40: 20.0}}, {10: {20: 10.0, 40: 20.0, 80: 40.0}}]
    for candidate, n in (({20: 10.0}, 20), ({20: 10.0, 40: 20.0}, 40), ({20: 10.0, 40: 20.0, 80: 99.0}, 40)):
        # N is 80, which one seed has: there is no spread on all samples yet.
        assert compare({10: candidate}, references) == []
        whole = [*references, {10: {20: 10.0, 80: 40.0}}]
        wanted = 80 if 80 in candidate else n
        gap = compare({10: candidate}, whole)[0]
        assert gap.num_samples == wanted
        assert gap.value == candidate[wanted]
        assert gap.baseline_mean == pytest.approx(wanted / 2)
    assert compare({10: {30: 1.0}}, PAIR) == []


def test_an_evaluation_is_open_near_the_margin_only():
    error = math.sqrt(N / 20 - 1)  # e_20 / s_N of PAIR
    for gap, expected in (
        (2.0, True),
        (2 + 0.99 * CLEAR * error, True),
        (2 - 0.99 * CLEAR * error, True),
        (2 + 1.01 * CLEAR * error, False),
        (2 - 1.01 * CLEAR * error, False),
    ):
        assert _open(_at_gap(gap, 20)) is expected, gap
    # The same gap, on more samples, is surer.
    assert _open(_at_gap(5.5, 20))
    assert not _open(_at_gap(5.5, 80))
    assert not _open(_at_gap(2.0, N))


def test_max_mirrors_min_in_openness():
    for gap in (-9.0, -3.0, 0.0, 2.0, 5.0, 9.0):
        mirrored = {step: {n: 1e4 / value for n, value in at.items()} for step, at in _at_gap(gap, 20).items()}
        for patience in (1, 2):
            config = replace(NO_GRACE, patience=patience)
            assert _open(_at_gap(gap, 20), config=config) == _open(mirrored, config=config, mode="max")


def test_what_is_open_in_any_case():
    far = _at_gap(-50, 20)
    assert not _open(far)
    assert _open(far, config=replace(NO_GRACE, evaluation="full"))
    assert _open(_at_gap(-50, 20, step=40))  # the last step
    assert _open({**far, 10: {}})  # nothing measured yet, as where a metric needs more samples
    assert _open({})
    for references in ([], PAIR[:1], [_flat(100.0, steps=(5,))] * 2, [_flat(100.0, looks=(N,))] * 2):
        assert _open(far, references)
    assert _open(far, [_flat(100.0, looks=(20, 40))] * 2)  # what the baseline is on all samples is not known
    for config in (NO_GRACE, replace(NO_GRACE, evaluation="full")):
        assert not _open(_at_gap(2.0, N), config=config)
        assert not _open(_at_gap(2.0, N, step=40), [], config=config)


def test_the_grace_decides_nothing():
    config = StopConfig(grace=0.5)
    for references in (PAIR, []):
        assert not _open(_at_gap(2.0, 20, step=10), references, config=config)
    assert _open(_at_gap(2.0, 20, step=20), config=config)
    assert _open(_at_gap(2.0, 20, step=40), config=StopConfig(grace=1.0))  # the last step


def test_a_strike_that_would_stop_is_looked_at_on_all_samples():
    first = _at_gap(50, 20)
    assert not _open(first)
    assert _open(first, config=replace(NO_GRACE, patience=1))
    second = {**first, **_at_gap(50, 20, step=20)}
    assert _open(second)
    assert not _open(second, config=replace(NO_GRACE, patience=3))
    verdict = judge(second, PAIR, NO_GRACE, num_steps=40)
    assert (verdict.stop, verdict.strikes, verdict.num_samples) == (False, 2, 20)
    assert verdict.reason == "50.0 spreads worse than the baseline at step 20 (n=20), strike 2 of 2"
    on_all = {**first, **_at_gap(50, N, step=20)}
    assert judge(on_all, PAIR, NO_GRACE, num_steps=40).stop


def test_values_at_or_below_zero_close_as_better():
    for value in (0.0, -3.0):
        assert not _open({10: {20: value}})
        assert judge({10: {20: value}}, PAIR, NO_GRACE, num_steps=40).strikes == 0
        assert _open({10: {20: value}}, config=replace(NO_GRACE, patience=1), mode="max")


@given(
    st.integers(0, 10**6),
    st.sampled_from(LOOKS[:-1]),
    st.floats(min_value=-40, max_value=40),
    st.floats(min_value=0, max_value=4),
    st.floats(min_value=-0.999, max_value=0.999),
)
def test_closing_is_on_the_side_that_judge_counts_by(seed, n, gap, margin, miss):
    """Whatever all samples would have said, as long as the prediction misses by less than it allows for."""
    rng = np.random.default_rng(seed)
    references = [_gaussian(rng, steps=STEPS) for _ in range(3)]
    config = StopConfig(margin=margin, patience=3, grace=0.0)
    unit = pooled_spread(references) * math.sqrt(4 / 3)

    def worse_by(spreads, looks):
        means = {look: np.mean([math.log(curve[20][look]) for curve in references]) for look in LOOKS if look <= looks}
        return {20: {look: math.exp(mean + spreads * unit) for look, mean in means.items()}}

    few = worse_by(gap, n)
    told = compare(few, references)[0]
    assert (told.num_samples, told.gap) == (n, pytest.approx(gap, abs=1e-6))
    verdict = judge(few, references, config, num_steps=40)
    corrected = measured_spread(references).corrected(margin)
    assert (verdict.strikes, verdict.stop) == (int(told.gap > corrected), False)
    if not _open(few, references, config):
        on_all = worse_by(told.gap + miss * CLEAR * told.error, N)
        assert judge(on_all, references, config, num_steps=40).strikes == verdict.strikes


@given(baselines, curves, st.sampled_from(LOOKS), st.integers(1, 3))
def test_no_stop_on_fewer_than_all(references, candidate, n, patience):
    config = StopConfig(patience=patience, grace=0.0)
    known = _upto(candidate, 30, n)
    verdict = judge(known, references, config, num_steps=40)
    assert verdict.num_samples == n
    assert verdict.stop == (verdict.strikes >= patience and n == N)
    if n < N and verdict.strikes >= patience:
        assert _open(known, references, config)


def test_few_samples_give_the_verdicts_of_all():
    """10 evaluations, 3 seeds, candidates 6 spreads better to 8 worse; e_20 is twice training's own noise."""
    rng, steps, num_steps = np.random.default_rng(7), tuple(range(10, 110, 10)), 100
    sample = 2 * 0.02 / math.sqrt(1 / 20 - 1 / N)
    unit = math.hypot(0.02, sample / math.sqrt(N)) * math.sqrt(4 / 3)
    same_end = same_strike = strikes = used = full = 0
    runs = 120
    for _ in range(runs):
        references = [_gaussian(rng, steps=steps, sample=sample) for _ in range(3)]
        candidate = _gaussian(rng, steps=steps, sample=sample, level=5 + rng.uniform(-6, 8) * unit)
        ends, known = [], {}
        for config in (StopConfig(evaluation="full"), StopConfig()):
            known, end = {}, None
            for step in steps:
                # What the baselines have when this step is judged: no more than the candidate.
                there = [_upto(curve, step) for curve in references]
                known = _evaluate(candidate, there, config, step=step, num_steps=num_steps, known=known)
                if judge(known, there, config, num_steps=num_steps).stop:
                    end = step
                    break
            ends.append(end)
            if config.evaluation == "full":
                full += N * len(known)
        used += sum(max(at) for at in known.values())
        same_end += ends[0] == ends[1]
        few, all_of_them = compare(known, references), compare(candidate, references)
        for one, other in zip(few, all_of_them, strict=False):
            if one.step >= 20:
                strikes += 1
                same_strike += (one.gap > 2) == (other.gap > 2)
    assert same_end / runs >= 0.95
    assert same_strike / strikes >= 0.95
    assert used / full < 0.45
    assert used / full > 1 / 8  # the last evaluation and each stop are on all samples
