"""The audit of the rule: who is drawn, what the worker makes of it, and what the ledger says of it afterwards."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sweeps.audit import BETTER, LEVEL, WORSE, audit_of, audited, is_chosen, standing
from sweeps.ledger import FINISHED, baseline_curves, recorded_verdict
from sweeps.rule import Verdict, judge
from tests.sweeps.lab import OBJECTIVE, STEPS, Lab

names, prints = st.text(min_size=1, max_size=20), st.text("0123456789abcdef", min_size=12, max_size=12)
shares = st.floats(min_value=0, max_value=1)
STOP = Verdict(stop=True, reason="far behind", judged_step=80, gap=7.0, strikes=2)
LATE = (2.0, 2.0, 2.0, 0.9, 0.9)  # times the baseline, at the five steps: far behind, and then ahead


@given(names, prints, shares, shares)
def test_a_larger_share_audits_all_that_a_smaller_one_does(name, fingerprint, one, other):
    low, high = sorted((one, other))
    assert is_chosen(name, fingerprint, high) or not is_chosen(name, fingerprint, low)
    assert is_chosen(name, fingerprint, 1.0)
    assert not is_chosen(name, fingerprint, 0.0)


def test_the_share_of_names_and_of_settings_that_are_drawn_is_the_share_asked_for():
    """Within four standard deviations of a binomial; which ones is fixed for ever."""
    for share in (0.1, 0.5):
        spread = (4000 * share * (1 - share)) ** 0.5
        by_name = [is_chosen(f"candidate-{number:03d}", "f" * 12, share) for number in range(4000)]
        by_settings = [is_chosen("candidate-007", f"{number:012x}", share) for number in range(4000)]
        for drawn in (by_name, by_settings):
            assert abs(sum(drawn) - 4000 * share) < 4 * spread
        # Neither decides alone: the same number in another sweep is another draw.
        both = sum(one and other for one, other in zip(by_name, by_settings, strict=True))
        assert abs(both - 4000 * share**2) < 4 * (4000 * share**2) ** 0.5


@given(names, prints, shares)
def test_only_a_stop_of_a_chosen_trial_is_taken_back_and_nothing_else_changes(name, fingerprint, share):
    verdict = audited(STOP, name, fingerprint, share)
    assert verdict.stop != verdict.audited == is_chosen(name, fingerprint, share)
    assert (verdict.judged_step, verdict.gap, verdict.strikes) == (80, 7.0, 2)
    assert verdict.reason.startswith("far behind")
    assert verdict.reason.endswith("audit of the rule") == verdict.audited
    going_on = Verdict(stop=False, reason="close")
    assert audited(going_on, name, fingerprint, 1.0) == going_on


def test_an_audited_candidate_ends_as_finished_and_the_ledger_keeps_where_it_would_have_ended(tmp_path):
    lab = Lab(tmp_path, candidates=2)
    lab.baselines(1.0, 1.03)
    lab.judged("candidate-000", LATE)
    lab.judged("candidate-001", LATE, audit=True)
    stopped, going_on = (lab.ledger.record(f"candidate-00{number}") for number in range(2))
    assert audit_of(stopped) is None
    assert going_on.outcome == FINISHED
    audit = audit_of(going_on)
    assert audit.step == stopped.end.step == stopped.last_step
    assert audit.verdict.reason.startswith(stopped.end.reason)
    later = [row for row in going_on.evaluations if row.step > audit.step]
    assert audit.cost_s == 12 * len(later)
    assert not recorded_verdict(going_on.evaluations[-1]).audited, "it has recovered by then"


def test_a_verdict_comes_back_from_the_ledger_as_it_was(tmp_path):
    lab = Lab(tmp_path, candidates=1)
    lab.baselines(1.0, 1.03)
    lab.judged("candidate-000", (2.0, 2.0, 2.0, 2.0, 2.0), audit=True)
    record = lab.ledger.record("candidate-000")
    curve, baselines = record.curve(OBJECTIVE), baseline_curves(lab.ledger.records(), OBJECTIVE)
    verdict = judge(curve, baselines, lab.space.stop, num_steps=STEPS[-1])
    assert verdict.struck == STEPS
    assert recorded_verdict(record.evaluations[-1]) == replace(verdict, stop=False)


def test_a_verdict_of_another_version_can_be_read(tmp_path):
    lab = Lab(tmp_path, candidates=1)
    row = lab._row("candidate-000", 40, 1.0, verdict={"stop": False, "reason": "level", "of_tomorrow": 1})
    assert recorded_verdict(row) == Verdict(stop=False, reason="level")
    assert recorded_verdict(lab._row("candidate-000", 40, 1.0)) is None


def test_the_end_of_an_audited_candidate_is_measured_as_every_difference_is():
    assert [standing(gap) for gap in (-9.0, -2.0, -1.9, 0.0, 1.9, 2.0, 9.0)] == [
        *[BETTER] * 2,
        *[LEVEL] * 3,
        *[WORSE] * 2,
    ]
