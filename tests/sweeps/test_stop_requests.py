"""A person's stop: the request, and that no statistic takes it for a verdict of the rule. Workers: test_worker.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from optuna.trial import TrialState

from sweeps.importance import importance_of
from sweeps.ledger import STOPPED, End, TrialRecord
from sweeps.replay import replay
from sweeps.replay_table import lines, table
from sweeps.stop_requests import StopRequest, ask_to_stop
from sweeps.stopping import stopped_sentence, stopping_line
from sweeps.storage import SweepPaths
from sweeps.study import Study, past_trial
from tests.sweeps.lab import OBJECTIVE, STEPS, Lab

WHY = "by hand (ana on head-1, 2026-11-27 08:30:00 UTC)"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Two baselines; candidate-000 is stopped by the rule, candidate-001 by hand, at a step where it was ahead."""
    lab = Lab(tmp_path, candidates=2)
    lab.baselines(1.0, 1.01)
    lab.judged("candidate-000", [1.5] * len(STEPS))
    _by_hand(lab, "candidate-001", 0.8)
    return lab


def _by_hand(lab: Lab, name: str, factor: float) -> None:
    lab.trial(name, factor, until=80, outcome=None)
    log = str(lab.paths.trial_log(name))
    lab.ledger.append(End(trial=name, outcome=STOPPED, step=90, reason=WHY, log=log, by_hand=True))


def _record(lab: Lab, name: str) -> TrialRecord:
    record = lab.ledger.record(name)
    assert record is not None
    return record


def test_a_request_says_who_wants_it_and_why_and_is_read_once(tmp_path: Path) -> None:
    paths = SweepPaths(tmp_path)
    request = StopRequest(paths.stop_request("candidate-001"))
    assert request.look() == ""
    ask_to_stop(paths, "candidate-001", "wanted\nelsewhere")
    told = request.look()
    assert told.startswith("by hand (")
    assert told.endswith("): wanted elsewhere")
    ask_to_stop(paths, "candidate-001", "another word")
    assert request.look() == told
    assert "another word" in StopRequest(paths.stop_request("candidate-001")).look()


def test_a_file_that_is_no_request_of_ours_is_one_all_the_same(tmp_path: Path) -> None:
    place = tmp_path / "candidate-001.json"
    for content in ("", "null", "[1]", json.dumps({"by": "ana"})):
        place.write_text(content)
        assert StopRequest(place).look() == "by hand"


def test_in_s3_it_is_an_object(s3_bucket: str, tmp_path: Path) -> None:
    paths = SweepPaths.at(f"{s3_bucket}/results/repa", tmp_path)
    request = StopRequest(paths.stop_request("candidate-001"))
    assert request.look() == ""
    ask_to_stop(paths, "candidate-001", "enough")
    assert request.look().endswith("): enough")


def test_optuna_leaves_it_out_in_this_start_and_in_the_next(lab: Lab) -> None:
    by_rule, by_hand = (_record(lab, name) for name in ("candidate-000", "candidate-001"))
    assert past_trial(lab.space, by_rule).state == TrialState.PRUNED
    assert past_trial(lab.space, by_hand).state == TrialState.FAIL
    study = Study(lab.space, [])
    for number, record in enumerate((by_rule, by_hand)):
        study.suggest(record.trial, number)
        study.report(record)
        study.tell(record.trial, record)
    assert [trial.state for trial in study.optuna.trials] == [TrialState.PRUNED, TrialState.FAIL]


def test_what_the_rule_has_stopped_and_saved_is_told_without_it(lab: Lab) -> None:
    summary = lab.summary()
    assert [trial.name for trial in summary.stopped] == ["candidate-000"]
    assert [trial.name for trial in summary.stopped_by_hand] == ["candidate-001"]
    assert stopping_line(summary).startswith("1 of 2 candidates stopped, at step 80; audit: ")
    assert stopped_sentence(summary).startswith("1 of 2 candidates stopped early, at step 80 of 200")
    by_name = {trial.name: trial for trial in summary.trials}
    assert by_name["candidate-000"].saved_s > 0
    assert (by_name["candidate-001"].saved_s, by_name["candidate-001"].step) == (0, 90)
    assert summary.compute.num_stopped == 1
    assert WHY in lab.page()


def test_the_answer_does_not_say_that_it_fell_short(lab: Lab, tmp_path: Path) -> None:
    assert lab.summary().answer == ("No: no candidate kept up with the baseline (1 stopped, 1 stopped by hand).")
    other = Lab(tmp_path / "other", candidates=1)
    other.baselines(1.0, 1.01)
    _by_hand(other, "candidate-000", 0.8)
    assert other.summary().answer == "Not answered yet: no candidate came to its end (1 stopped by hand)."


def test_a_replay_takes_it_for_no_stop_of_the_recorded_rule(lab: Lab) -> None:
    again = replay(lab.ledger.records(), lab.space.stop, metric=OBJECTIVE, mode="min")
    courses = {course.trial: course for course in again.courses}
    assert (courses["candidate-000"].recorded_stop, courses["candidate-000"].by_hand) == (80, False)
    assert (courses["candidate-001"].recorded_stop, courses["candidate-001"].by_hand) == (None, True)
    told = " ".join("\n".join(lines(again)).split())
    assert "candidate-001: stopped by hand" in told
    assert "candidate-001: the sweep stopped it sooner" not in told
    assert any("by hand at 80" in str(cell) for cell in table(again).columns[1].cells)


def test_it_is_neither_good_nor_bad_for_the_importance_of_settings(lab: Lab) -> None:
    for number in range(2, 8):
        chosen = {"repa.teacher": "dinov2s_saliency", "repa.depth": 1 + number % 2, "repa.weight": 0.1 * number}
        lab.trial(f"candidate-{number:03d}", 1.0 + number / 100, overrides=chosen)
    records = lab.ledger.records()
    found = importance_of(lab.space, records)
    assert found is not None
    assert found.num_stopped == 1
    without = importance_of(lab.space, [record for record in records if record.trial != "candidate-001"])
    assert without == found
