"""What Prometheus is shown, by the rows of a ledger. What Ray's agent makes of it: tests/test_smoke_sweep.py."""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path

import pytest

from sweeps import gauges
from sweeps.gauges import COUNTERS, GAUGES, LINGER_S, Gauges, decision, of_sweep, of_trial
from sweeps.ledger import FAILED, LOSS, NOTICE, STOPPED, End, Interruption, TrialRecord
from sweeps.search import SweepSearch
from sweeps.titles import bare_config, config_in_words, title
from tests.sweeps.lab import OBJECTIVE, OTHER, STEPS, Lab

OWN = {"trial": "candidate-000", "config": "dinov2s_saliency, depth 1/2, weight 0.422"}
DEPTH = 2


def _record(lab: Lab, trial: str) -> TrialRecord:
    record = lab.ledger.record(trial)
    assert record is not None
    return record


def _of_sweep(lab: Lab) -> dict[tuple[str, str], float]:
    """(gauge, its labels' values) -> value."""
    samples = of_sweep(lab.space, lab.ledger.records(), 9, DEPTH)
    return {(name, " ".join(labels.values())): value for name, labels, value in samples}


def test_every_sample_has_the_labels_of_its_gauge_and_every_gauge_is_set(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=2)
    lab.baselines(1.0, 1.03)
    lab.judged("candidate-000", [0.9] * len(STEPS))
    lab.row("candidate-000", 200, 0.9, repa_loss=0.5, verdict={"stop": False, "gap": -1.5})
    samples = list(of_trial(_record(lab, "candidate-000"), 200, DEPTH))
    samples += of_sweep(lab.space, lab.ledger.records(), 4, DEPTH)
    for name, labels, value in samples:
        assert tuple(labels) == GAUGES[name].labels, name
        assert isinstance(value, float | int)
        assert all(isinstance(label, str) for label in labels.values())
    assert {name for name, _, _ in samples} == GAUGES.keys()
    assert not GAUGES.keys() & COUNTERS.keys()


def test_a_trial_is_shown_at_its_last_evaluation_under_the_names_of_its_metrics(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=1)
    lab.trial("candidate-000", 1.0, until=80, outcome=None, samples={80: 48})
    row = _record(lab, "candidate-000").evaluations[-1]
    samples = list(of_trial(_record(lab, "candidate-000"), 95, DEPTH))
    assert ("sweep_trial_metric", {**OWN, "metric": OBJECTIVE}, row.metrics[OBJECTIVE]) in samples
    assert ("sweep_trial_metric", {**OWN, "metric": OTHER}, row.metrics[OTHER]) in samples
    assert ("sweep_trial_samples", OWN, 48) in samples
    assert ("sweep_trial_progress", OWN, 95 / 200) in samples
    assert ("sweep_trial_images_per_second", OWN, 70.0) in samples
    names = {name for name, _, _ in samples}
    assert not names & {"sweep_trial_gap", "sweep_trial_repa_loss"}, "what is not known is not shown as 0"


def test_before_its_first_evaluation_a_trial_shows_its_progress_only(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=1)
    lab.trial("baseline-seed1", 1.0, role="baseline", seed=1, until=0, outcome=None, overrides={"repa": None})
    own = {"trial": "baseline-seed1", "config": "baseline, seed 1"}
    assert list(of_trial(_record(lab, "baseline-seed1"), 10, DEPTH)) == [("sweep_trial_progress", own, 0.05)]


def test_a_gap_without_measure_is_not_shown(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=1)
    lab.trial("candidate-000", 1.0, until=40, outcome=None)
    for gap, shown in ((2.5, [2.5]), (1e9, []), (None, [])):
        lab.row("candidate-000", 80, 1.0, verdict={"stop": False, "gap": gap})
        samples = of_trial(_record(lab, "candidate-000"), 80, DEPTH)
        assert [value for name, _, value in samples if name == "sweep_trial_gap"] == shown


def test_hours_are_those_of_the_rows_and_what_stopping_saved_of_them(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=3)
    lab.baselines(1.0, 1.03)
    lab.trial("candidate-000", 2.0, until=0, outcome=None)
    for step in (40, 80):
        lab.row("candidate-000", step, 2.0, cpus=4.0, gpus=2.0, usd_per_hour=30.0)
    lab.ledger.append(End(trial="candidate-000", outcome=STOPPED, step=80, reason="weak", log=""))
    shown = _of_sweep(lab)
    hours = 2 * (10 + 2) / 3600  # two evaluations, each 10 s of training and 2 s of evaluation
    assert shown["sweep_gpu_hours", ""] == pytest.approx(2 * hours)
    assert shown["sweep_cpu_hours", ""] == pytest.approx(4 * hours)
    assert shown["sweep_cost_dollars", ""] == pytest.approx(30 * hours)
    assert shown["sweep_saved_gpu_hours", ""] == pytest.approx(2 * hours * 120 / 80), "80 of 200 steps were trained"
    assert shown["sweep_saved_cpu_hours", ""] == pytest.approx(4 * hours * 120 / 80)


def test_a_sweep_shows_its_trials_by_state_its_best_and_its_baseline(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=4)
    assert _of_sweep(lab)["sweep_trials", "planned"] == 9
    assert ("sweep_baseline", OBJECTIVE) not in _of_sweep(lab)
    lab.baselines(1.0, 1.0)
    lab.trial("candidate-000", 0.8)
    lab.trial("candidate-001", 0.9)
    lab.trial("candidate-002", 0.1, until=80, outcome=FAILED)
    lab.trial("candidate-003", 0.7, until=80, outcome=None)
    shown = _of_sweep(lab)
    states = {"planned": 9, "running": 1, "finished": 4, "stopped": 0, "failed": 1}
    assert {state: shown["sweep_trials", state] for state in states} == states
    best = _record(lab, "candidate-000").evaluations[-1].metrics
    assert shown["sweep_best", f"{OWN['trial']} {OWN['config']} {OTHER}"] == best[OTHER]
    assert shown["sweep_baseline", OBJECTIVE] == pytest.approx(best[OBJECTIVE] / 0.8)


def test_what_has_interrupted_trials_is_counted_by_cause(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=1)
    lab.baselines(1.0, 1.03)
    for time in (1.0, 2.0):
        lab.ledger.append(Interruption(trial="baseline-seed0", cause=LOSS, step=40, reason="gone", time=time))
    shown = _of_sweep(lab)
    assert (shown["sweep_interruptions", LOSS], shown["sweep_interruptions", NOTICE]) == (2, 0)


def test_an_ended_trial_is_shown_a_minute_longer_and_one_of_an_earlier_start_never(tmp_path, monkeypatch) -> None:
    lab, clock = Lab(tmp_path, candidates=3), [100.0]
    monkeypatch.setattr(gauges.time, "monotonic", lambda: clock[0])
    lab.trial("candidate-000", 1.0)
    lab.trial("candidate-001", 1.0, until=80, outcome=None)
    shown = Gauges(lab.space, "repa-laptop-0", 3)

    def names() -> list[str]:
        return [record.trial for record in shown.current(lab.ledger.records())]

    assert names() == ["candidate-001"]
    lab.ledger.append(End(trial="candidate-001", outcome=STOPPED, step=80, reason="weak", log=""))
    lab.trial("candidate-002", 1.0)  # from its start to its end between two looks
    assert names() == ["candidate-001", "candidate-002"]
    clock[0] += LINGER_S - 1
    assert names() == ["candidate-001", "candidate-002"]
    clock[0] += 2
    assert names() == []


def test_decisions_are_told_apart(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=2)
    lab.baselines(1.0, 1.03)
    lab.judged("candidate-000", [1.0, 1.0, 3.0, 3.0, 3.0])
    lab.judged("candidate-001", [3.0] * len(STEPS), audit=True)
    told = {
        trial: [decision(row.verdict) for row in _record(lab, trial).evaluations if row.verdict is not None]
        for trial in ("candidate-000", "candidate-001")
    }
    assert told["candidate-000"][-1] == "stop"
    assert "stop" not in told["candidate-000"][:-1]
    assert "audited" in told["candidate-001"]
    assert "stop" not in told["candidate-001"]
    assert decision({"stop": False, "judged_step": None}) == "not_judged"


def test_titles_name_the_sweep_the_trial_and_its_settings(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=2)
    lab.trial("candidate-000", 1.0)
    start = _record(lab, "candidate-000").start
    assert title("repa", start, DEPTH) == f"repa candidate-000: {OWN['config']}"
    lab.baselines(1.0, 1.0)
    suggested = SweepSearch(lab.space, lab.ledger).suggest("t0")["planned"]
    assert re.fullmatch(r"repa candidate-001: \w+, depth [12]/2, weight [\d.]+", suggested["title"])
    baseline = title("repa", _record(lab, "baseline-seed1").start, DEPTH)
    assert baseline == "repa baseline-seed1: baseline, seed 1"
    lab.confirmations("candidate-000", 1.0)
    confirmation = title("repa", _record(lab, "candidate-000-seed1").start, DEPTH)
    assert confirmation == f"repa candidate-000-seed1: {OWN['config']}, seed 1"


def test_settings_are_told_in_one_order_whatever_order_they_have(tmp_path: Path) -> None:
    """Optuna hands them out in another one than a file's points have."""
    lab = Lab(tmp_path, candidates=24)
    settings = {"repa.weight": 0.5, "repa.depth": 2, "flow.shift": 3, "repa.teacher": "dinov2s_saliency"}
    for number, order in enumerate(permutations(settings)):
        lab.trial(f"candidate-{number:03d}", 1.0, overrides={path: settings[path] for path in order}, until=0)
    starts = [record.start for record in lab.ledger.records()]
    assert {config_in_words(start, DEPTH) for start in starts} == {"dinov2s_saliency, depth 2/2, shift 3, weight 0.5"}
    assert {bare_config(start, DEPTH, 7) for start in starts} == {"dinov2… 2/2 3 0.5"}
