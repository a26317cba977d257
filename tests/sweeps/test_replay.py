"""The replay: it repeats what a sweep has decided, and tells nothing that the ledger cannot know."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.ledger import FAILED, FINISHED, STOPPED, End
from sweeps.replay import replay
from sweeps.rule import ADAPTIVE, FULL, StopConfig
from tests.sweeps.judged_sweeps import COUNTS, METRIC, SAMPLE_S, STEPS, TRAIN_S, run

NAMES = ("baseline-0", "baseline-1", "candidate-0", "candidate-1", "candidate-2")
CANDIDATES = NAMES[2:]
EAGER = StopConfig(margin=1.0, patience=1, grace=0.0)

factors = st.floats(min_value=0.8, max_value=1.25)
noises = st.floats(min_value=0.99, max_value=1.01)
trial_values = st.fixed_dictionaries(
    {
        step: st.builds(
            lambda factor, few, more, step=step: {
                20: 1e5 / step * factor * few,
                40: 1e5 / step * factor * more,
                80: 1e5 / step * factor,
            },
            factors,
            noises,
            noises,
        )
        for step in STEPS
    }
)
stops = st.builds(
    StopConfig,
    margin=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    patience=st.integers(min_value=1, max_value=3),
    grace=st.sampled_from([0.0, 0.3]),
    evaluation=st.sampled_from([ADAPTIVE, FULL]),
)


@st.composite
def sweeps(draw, evaluation=None):
    """Records, and the rule that they were judged by; trials take turns in any order."""
    stop = draw(stops)
    stop = stop if evaluation is None else replace(stop, evaluation=evaluation)
    trials = {name: draw(trial_values) for name in NAMES}
    turns = draw(st.permutations([name for name in NAMES for _ in STEPS]))
    chosen = draw(st.sets(st.sampled_from(CANDIDATES)))
    return run(trials, turns, stop, audited_names=sorted(chosen)), stop


def steps_of(again):
    return {course.trial: course.stop.step if course.stop else None for course in again.courses}


@settings(max_examples=60)
@given(sweeps())
def test_its_own_rule_stops_what_the_sweep_has_stopped_and_where(sweep):
    records, stop = sweep
    again = replay(records, stop, metric=METRIC, mode="min")
    assert steps_of(again) == {course.trial: course.recorded_stop for course in again.courses}
    for course in again.courses:
        assert course.stop is None or course.stop.whole
        assert course.num_short == 0
        assert not course.unknown
        recorded = next(record for record in records if record.trial == course.trial)
        if course.stop is None:
            assert course.spent_s == pytest.approx(course.recorded_s) == pytest.approx(course.whole_s)
        assert course.num_sampled == sum(
            row.num_samples for row in recorded.evaluations if course.stop is None or row.step <= course.stop.step
        )


@settings(max_examples=40)
@given(sweeps(), stops)
def test_time_is_spent_or_saved_and_never_both(sweep, other):
    again = replay(sweep[0], other, metric=METRIC, mode="min")
    for course in again.courses:
        assert 0 <= course.spent_s <= course.recorded_s + 1e-9 <= course.whole_s + 2e-9
        assert course.saved_s == pytest.approx(0 if course.unknown else course.whole_s - course.spent_s)
        assert not (course.unknown and course.outcome == FINISHED)
        assert course.stop is None or course.stop.step < STEPS[-1]


@settings(max_examples=40)
@given(sweeps(evaluation=FULL), stops)
def test_a_stricter_rule_stops_no_later(sweep, looser):
    records, _ = sweep
    looser = replace(looser, evaluation=FULL)
    stricter = replace(looser, margin=looser.margin / 2, patience=max(1, looser.patience - 1))
    sooner, later = (steps_of(replay(records, rule, metric=METRIC, mode="min")) for rule in (stricter, looser))
    for trial, other in later.items():
        one = sooner[trial]
        assert other is None or (one is not None and one <= other)


def _values(*factors):
    """The same on every number of samples."""
    return {step: dict.fromkeys(COUNTS, 1e5 / step * factor) for step, factor in zip(STEPS, factors, strict=True)}


BASELINES = {"baseline-0": _values(1.0, 1.0, 1.0, 1.0, 1.0), "baseline-1": _values(1.03, 1.0, 1.03, 1.0, 1.03)}
AFTER_THE_BASELINE = [name for name in NAMES for _ in STEPS]
BAD, LATE, GOOD = _values(9.0, 9.0, 9.0, 9.0, 9.0), _values(9.0, 0.5, 0.5, 0.4, 0.3), _values(1.0, 0.9, 0.8, 0.7, 0.6)
LOOSE = StopConfig(margin=2.0, patience=2, grace=0.0, evaluation=FULL)


def _sweep(stop=LOOSE, audited_names=(), turns=AFTER_THE_BASELINE):
    trials = {**BASELINES, "candidate-0": BAD, "candidate-1": LATE, "candidate-2": GOOD}
    return run(trials, turns, stop, audited_names=audited_names)


def test_a_winner_that_a_stricter_rule_would_stop_is_told_as_lost():
    again = replay(_sweep(), replace(LOOSE, patience=1), metric=METRIC, mode="min")
    bad, late, good = again.courses
    assert [course.stop and course.stop.step for course in again.courses] == [100, 100, None]
    assert (bad.outcome, bad.recorded_stop, bad.lost) == (STOPPED, 200, False)
    assert late.lost
    assert late.clearly_lost
    assert not good.lost
    assert again.best is late
    assert again.best_left is good
    evaluation_s = TRAIN_S + SAMPLE_S * COUNTS[-1]
    assert late.saved_s == pytest.approx(4 * evaluation_s)
    # Really stopped after two evaluations: the other three are estimated from those.
    assert (bad.recorded_s, bad.whole_s, bad.spent_s) == pytest.approx(tuple(n * evaluation_s for n in (2, 5, 1)))


def test_beyond_a_real_stop_nothing_is_known_unless_it_was_audited():
    patient = replace(LOOSE, patience=4)
    cut = replay(_sweep(), patient, metric=METRIC, mode="min").courses[0]
    assert cut.unknown
    assert cut.saved_s == 0
    assert cut.ending is None
    audited = replay(_sweep(audited_names=["candidate-0"]), patient, metric=METRIC, mode="min").courses[0]
    assert (audited.audited, audited.recorded_stop, audited.outcome) == (True, 200, FINISHED)
    assert audited.stop.step == 400
    assert audited.ending.gap > 2


def test_a_candidate_is_judged_by_what_the_baseline_had_shown_by_then():
    """The bad candidate is ahead of the baseline: the sweep could stop it only when that had come as far."""
    turns = (
        ["candidate-0"] * 4 + [name for name in NAMES[:2] for _ in STEPS] + [*AFTER_THE_BASELINE[15:], "candidate-0"]
    )
    records = _sweep(turns=turns)
    assert replay(records, LOOSE, metric=METRIC, mode="min").courses[0].stop is None
    assert replay(records, LOOSE, metric=METRIC, mode="min", hindsight=True).courses[0].stop.step == 200


def test_a_stop_on_fewer_samples_than_the_rule_takes_is_told_as_such():
    """A sweep whose margin nobody reaches looks at few samples; a low margin would have looked at all."""
    close = _values(1.2, 1.2, 1.2, 1.2, 1.2)
    baselines = {
        name: {step: {n: v * (1 + spread * (80 / n - 1) / 9) for n, v in at.items()} for step, at in values.items()}
        for (name, values), spread in zip(BASELINES.items(), (0.0, 0.01), strict=True)
    }
    wide = StopConfig(margin=1e3, patience=1, grace=0.0)
    records = run({**baselines, "candidate-0": close}, AFTER_THE_BASELINE[:15], wide)
    assert {row.num_samples for row in records[-1].evaluations[:-1]} == {20}
    narrow = replay(records, replace(wide, margin=0.1), metric=METRIC, mode="min").courses[0]
    assert (narrow.stop.step, narrow.stop.whole, narrow.num_short) == (100, False, 1)


def test_fewer_looks_save_their_share_of_an_evaluation():
    wide = StopConfig(margin=1e3, patience=1, grace=0.0, evaluation=FULL)
    full = _sweep(wide)
    again = replay(full, replace(wide, evaluation=ADAPTIVE), metric=METRIC, mode="min").courses[2]
    assert again.num_sampled == 4 * COUNTS[0] + COUNTS[-1]
    assert again.saved_s == pytest.approx(4 * SAMPLE_S * (COUNTS[-1] - COUNTS[0]))


def test_a_candidate_that_failed_is_neither_lost_nor_unknown():
    records = _sweep()
    failed = replace(records[-1], evaluations=records[-1].evaluations[:2], end=_failed("candidate-2", 230))
    again = replay([*records[:-1], failed], LOOSE, metric=METRIC, mode="min")
    course = again.courses[2]
    assert (course.stop, course.unknown, course.ending, course.lost) == (None, False, None, False)
    assert again.best.trial == "candidate-1"


def test_a_baseline_that_failed_judges_only_until_then():
    records = _sweep()
    failed = replace(records[1], end=_failed("baseline-1", 500))
    again = replay([records[0], failed, *records[2:]], LOOSE, metric=METRIC, mode="min")
    assert again.num_seeds == 1
    assert all(course.stop is None for course in again.courses)


def _failed(name: str, step: int) -> End:
    return End(trial=name, outcome=FAILED, step=step, reason="diverged", log="", time=0.0)


def test_more_is_better_where_the_metric_is_maximised():
    again = replay(_sweep(), LOOSE, metric=METRIC, mode="max")
    assert again.best.trial == "candidate-2", "the larger value of those that finished"
    assert [course.trial for course in again.stopped] == ["candidate-1", "candidate-2"]
