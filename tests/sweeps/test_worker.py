"""The worker by itself: the real model, data, teacher and metric, without Ray."""

from __future__ import annotations

import itertools
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prx_model.experiment import open_store
from prx_model.kept import Kept
from sweeps.audit import audit_of
from sweeps.costs import Costs
from sweeps.ledger import BASELINE, CANDIDATE, FAILED, FINISHED, NOTICE, STOPPED, EvaluationRow, Interruption, Ledger
from sweeps.prompts import prompts_of
from sweeps.slot import SlotBrokenError, _device, as_new, check_device
from sweeps.stop_requests import ask_to_stop
from sweeps.storage import SweepPaths
from sweeps.task import Task
from sweeps.trial_folder import latest_checkpoint
from sweeps.worker import LeavingError, Place, TrialFailedError, record_failure, train_trial
from tests.sweeps.trials import DIVERGING, METRIC, TOO_LARGE, numbers, planned_task, smoke_space, write_baseline

ALONE = Place(device=torch.device("cpu"))


@pytest.fixture
def paths(tmp_path) -> SweepPaths:
    paths = SweepPaths(tmp_path / "sweep")
    paths.create()
    return paths


def _train(task: Task, kept: Kept | None = None) -> list[EvaluationRow]:
    return list(train_trial(task, ALONE, kept or Kept()))


def _fail(task: Task) -> TrialFailedError:
    with pytest.raises(TrialFailedError) as caught:
        _train(task)
    record_failure(task, caught.value)
    return caught.value


def test_a_baseline_trains_to_the_end_on_all_samples_and_is_not_judged(paths, cache):
    rows = _train(planned_task(paths, cache, "baseline-seed0", BASELINE))
    record = Ledger(paths).record("baseline-seed0")
    assert record.outcome == FINISHED
    assert [row.step for row in record.evaluations] == [row.step for row in rows] == [3, 6, 9, 12]
    assert all(row.verdict is None and row.repa_loss is None for row in record.evaluations)
    assert all(row.num_samples == 16 for row in record.evaluations)
    assert all(paths.sample_grid("baseline-seed0", step).is_file() for step in (3, 6, 9, 12))
    assert "step 12" in paths.trial_log("baseline-seed0").read_text()
    heldout = open_store(smoke_space().baseline_config(0).data, cache).heldout
    assert prompts_of(paths) == [heldout.captions[i % len(heldout)] for i in range(16)]


def test_where_the_time_goes_is_recorded(paths, cache):
    _train(planned_task(paths, cache, "baseline-seed0", BASELINE))
    record = Ledger(paths).record("baseline-seed0")
    first, *later = record.evaluations
    assert first.start_s > 0
    assert first.checkpoint_s == 0
    assert all(row.start_s == 0 and row.checkpoint_s > 0 for row in later)
    assert all(min(row.data_s, row.train_s, row.eval_s) > 0 for row in record.evaluations)
    assert record.end.checkpoint_s > 0


def test_a_candidate_far_behind_the_baseline_ends_by_itself(paths, cache):
    for seed, factor in ((0, 1.0), (1, 1.01)):
        write_baseline(paths, f"baseline-seed{seed}", dict.fromkeys((3, 6, 9, 12), 10.0 * factor))
    _train(planned_task(paths, cache, "candidate-000", CANDIDATE))
    record = Ledger(paths).record("candidate-000")
    assert record.outcome == STOPPED
    assert record.last_step == 6
    assert record.evaluations[-1].verdict["strikes"] == 2
    assert record.evaluations[-1].repa_loss is not None
    assert "in a row" in record.end.reason


def test_an_audited_candidate_goes_on_to_the_end_and_decides_the_same_after_a_resume(paths, cache):
    for seed, factor in ((0, 1.0), (1, 1.01)):
        write_baseline(paths, f"baseline-seed{seed}", dict.fromkeys((3, 6, 9, 12), 10.0 * factor))
    stop = {"margin": 2.0, "patience": 2, "grace": 0.2, "audit": 1.0}
    task = planned_task(paths, cache, "candidate-000", CANDIDATE, stop=stop)
    rows = train_trial(task, ALONE, Kept())
    assert [next(rows).step, next(rows).step] == [3, 6]
    rows.close()
    _train(task)
    record = Ledger(paths).record("candidate-000")
    assert record.outcome == FINISHED
    verdicts = {row.step: row.verdict for row in record.evaluations}
    assert list(verdicts) == [3, 6, 9, 12]
    assert [step for step, verdict in verdicts.items() if verdict["audited"]] == [6, 9], "the last one ends it anyway"
    assert not any(verdict["stop"] for verdict in verdicts.values())
    assert "in a row" in verdicts[6]["reason"]
    assert audit_of(record).step == 6


def test_halving_reads_the_other_candidates_from_the_ledger(paths, cache):
    """This one is far better than the baseline, and behind three other candidates."""
    steps = (3, 6, 9, 12)
    for seed, factor in ((0, 1.0), (1, 1.01)):
        write_baseline(paths, f"baseline-seed{seed}", dict.fromkeys(steps, 1e9 * factor))
    for number in range(3):
        write_baseline(paths, f"candidate-00{number}", dict.fromkeys(steps, 1e-3), role=CANDIDATE)
    stop = {"halving": {"start": 0.25, "keep": 0.5}, "audit": 0.0}
    _train(planned_task(paths, cache, "candidate-003", CANDIDATE, stop=stop))
    record = Ledger(paths).record("candidate-003")
    assert (record.outcome, record.last_step) == (STOPPED, 6)
    assert "halving leaves it behind: number 4 of 4 candidates, of which 2 go on" in record.end.reason
    told = record.evaluations[-1].verdict
    assert (told["rank"], told["ranked"], told["kept"], told["strikes"]) == (4, 4, 2, 0)


def test_a_candidate_is_judged_only_where_the_baseline_has_been(paths, cache):
    for seed, factor in ((0, 1.0), (1, 1.01)):
        write_baseline(paths, f"baseline-seed{seed}", {3: 10.0 * factor})
    _train(planned_task(paths, cache, "candidate-000", CANDIDATE))
    record = Ledger(paths).record("candidate-000")
    assert record.outcome == FINISHED
    assert {row.verdict["judged_step"] for row in record.evaluations} == {3}


def _on_few_samples(paths: SweepPaths, cache: Path, evaluation: str) -> list[int]:
    """Samples at each evaluation of a candidate that is far better than the baseline."""
    for seed, factor in ((0, 1.0), (1, 1.01)):
        write_baseline(paths, f"baseline-seed{seed}", dict.fromkeys((3, 6, 9, 12), 1e6 * factor), (4, 8, 16))
    stop = {"margin": 2.0, "patience": 2, "grace": 0.2, "evaluation": evaluation, "audit": 0.0}
    change = {"evaluation": {"batch_size": 4, "nested": [0.25, 0.5]}}
    _train(planned_task(paths, cache, "candidate-000", CANDIDATE, stop=stop, change=change))
    return [row.num_samples for row in Ledger(paths).record("candidate-000").evaluations]


def test_a_clear_candidate_is_evaluated_on_few_samples_until_the_end(paths, cache):
    assert _on_few_samples(paths, cache, "adaptive") == [4, 4, 4, 16]


def test_full_evaluation_takes_all_samples_every_time(paths, cache):
    assert _on_few_samples(paths, cache, "full") == [16] * 4


def test_divergence_is_recorded_with_its_step(paths, cache):
    failure = _fail(planned_task(paths, cache, "candidate-000", CANDIDATE, change=DIVERGING))
    record = Ledger(paths).record("candidate-000")
    assert failure.orderly
    assert record.outcome == FAILED
    assert 1 <= record.end.step <= 12
    assert f"diverged: loss is nan at step {record.end.step}" in record.end.reason.replace("gradient norm", "loss")
    assert "DivergedError" in Path(record.end.log).read_text()


def test_an_exception_is_recorded_with_its_place(paths, cache):
    _fail(planned_task(paths, cache, "candidate-000", CANDIDATE, change={"data": {"source": "store", "path": "/no"}}))
    record = Ledger(paths).record("candidate-000")
    assert record.outcome == FAILED
    assert "/no" in record.end.reason
    assert record.end.step == 0


def test_a_trial_that_does_not_fit_is_told_as_out_of_memory(paths, cache):
    _fail(planned_task(paths, cache, "candidate-000", CANDIDATE, change=TOO_LARGE))
    assert Ledger(paths).record("candidate-000").end.reason.startswith("out of memory: ")


def test_a_trial_that_is_cut_off_goes_on_from_its_checkpoint_to_the_same_numbers(paths, cache, tmp_path):
    whole = SweepPaths(tmp_path / "whole")
    whole.create()
    _train(planned_task(whole, cache, "candidate-000", CANDIDATE))
    task = planned_task(paths, cache, "candidate-000", CANDIDATE)
    rows = train_trial(task, ALONE, Kept())
    assert [next(rows).step, next(rows).step] == [3, 6]
    rows.close()
    assert latest_checkpoint(paths, "candidate-000").name.endswith("6")
    assert [row.step for row in _train(task)] == [9, 12]
    assert Ledger(paths).record("candidate-000").evaluations[-1].resumed_from == 6
    assert numbers(paths, "candidate-000") == numbers(whole, "candidate-000")


def _cut_off(task: Task, evaluations: int) -> None:
    """Train so many evaluations and be killed before the next."""
    rows = train_trial(task, ALONE, Kept())
    for _ in range(evaluations):
        next(rows)
    rows.close()


@pytest.fixture(scope="module")
def undisturbed(cache, tmp_path_factory) -> list:
    whole = SweepPaths(tmp_path_factory.mktemp("whole"))
    whole.create()
    _train(planned_task(whole, cache, "candidate-000", CANDIDATE))
    return numbers(whole, "candidate-000")


def _tear(checkpoint: Path) -> None:
    state = checkpoint / "state.pt"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])


def _zero(checkpoint: Path) -> None:
    state = checkpoint / "state.pt"
    state.write_bytes(b"\0" * state.stat().st_size)


def _empty(checkpoint: Path) -> None:
    (checkpoint / "state.pt").unlink()


@pytest.mark.parametrize("damage", [_tear, _zero, _empty])
def test_a_damaged_checkpoint_is_passed_over_and_the_trial_starts_over_to_the_same_numbers(
    paths, cache, undisturbed, damage
):
    task = planned_task(paths, cache, "candidate-000", CANDIDATE)
    _cut_off(task, 2)
    damaged = latest_checkpoint(paths, "candidate-000")
    damage(damaged)
    assert [row.step for row in _train(task)] == [3, 6, 9, 12]
    assert numbers(paths, "candidate-000") == undisturbed
    log = paths.trial_log("candidate-000").read_text()
    assert f"{damaged} cannot be built on, the trial starts over: " in log
    assert latest_checkpoint(paths, "candidate-000").name.endswith("12")


def test_a_checkpoint_that_was_half_written_is_none(paths, cache, undisturbed):
    task = planned_task(paths, cache, "candidate-000", CANDIDATE)
    _cut_off(task, 2)
    half = paths.trial_folder("candidate-000") / ".checkpoint_000000009.0123456789ab.partial"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")
    assert [row.resumed_from for row in _train(task)] == [6, 6]
    assert numbers(paths, "candidate-000") == undisturbed
    assert not half.exists()


def test_a_checkpoint_ahead_of_a_cut_ledger_is_not_built_on(paths, cache, undisturbed):
    """A disk that had promised more than it kept: no evaluation may be missing from the curve."""
    task = planned_task(paths, cache, "candidate-000", CANDIDATE)
    _cut_off(task, 3)
    ledger = paths.trial_ledger("candidate-000")
    start, first, second, third = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(start + first + second + third[: len(third) // 2])
    assert [row.step for row in _train(task)] == [3, 6, 9, 12]
    assert numbers(paths, "candidate-000") == undisturbed
    assert "the ledger has no evaluation at step 9" in paths.trial_log("candidate-000").read_text()


def test_a_trial_that_an_orphan_has_ended_is_not_trained_again(paths, cache):
    task = planned_task(paths, cache, "candidate-000", CANDIDATE)
    _train(task)
    content = paths.trial_ledger("candidate-000").read_bytes()
    assert _train(task) == []
    assert paths.trial_ledger("candidate-000").read_bytes() == content


def test_a_trial_killed_between_its_stop_and_its_end_is_stopped(paths, cache):
    for seed, factor in ((0, 1.0), (1, 1.01)):
        write_baseline(paths, f"baseline-seed{seed}", dict.fromkeys((3, 6, 9, 12), 10.0 * factor))
    task = planned_task(paths, cache, "candidate-000", CANDIDATE)
    _cut_off(task, 2)
    record = Ledger(paths).record("candidate-000")
    assert record.evaluations[-1].verdict["stop"]
    assert record.end is None
    assert _train(task) == []
    record = Ledger(paths).record("candidate-000")
    assert (record.outcome, record.end.step, record.last_step) == (STOPPED, 6, 6)
    assert "in a row" in record.end.reason


def test_a_trial_that_fails_between_evaluations_goes_on_from_a_pause(paths, cache, tmp_path, monkeypatch):
    often = {"training": {"steps": 45, "eval_every_steps": 45, "checkpoint_every_min": 1e-9}}
    whole = SweepPaths(tmp_path / "whole")
    whole.create()
    _train(planned_task(whole, cache, "candidate-000", CANDIDATE, change=often))
    assert "checkpoint at step 40" in whole.trial_log("candidate-000").read_text()
    task = planned_task(paths, cache, "candidate-000", CANDIDATE, change=often)
    with monkeypatch.context() as patch:
        patch.setattr("prx_model.experiment.sample", lambda *_, **__: 1 / 0)
        with pytest.raises(TrialFailedError, match="division by zero"):
            _train(task)
    assert latest_checkpoint(paths, "candidate-000").name.endswith("40")
    assert [row.resumed_from for row in _train(task)] == [40]
    assert numbers(paths, "candidate-000") == numbers(whole, "candidate-000")


def test_a_trial_has_the_same_numbers_first_and_after_five_others(paths, cache):
    """To the bit, in one process, with failures and other settings among those before it."""
    kept, torch_default = Kept(), torch.get_default_dtype()

    def in_the_slot(trial: str, role: str, change=None) -> None:
        task = planned_task(paths, cache, trial, role, change=change)
        with as_new(task.num_threads):
            try:
                _train(task, kept)
            except TrialFailedError as failure:
                record_failure(task, failure)

    in_the_slot("candidate-000", CANDIDATE)
    in_the_slot("baseline-seed0", BASELINE)
    in_the_slot("candidate-001", CANDIDATE, DIVERGING)
    in_the_slot("candidate-002", CANDIDATE, TOO_LARGE)
    in_the_slot("candidate-003", CANDIDATE, {"training": {"precision": "bf16", "batch_size": 4}})
    in_the_slot("candidate-004", CANDIDATE, {"model": {"depth": 3}, "repa": {"depth": 3}})
    in_the_slot("candidate-005", CANDIDATE)
    assert numbers(paths, "candidate-005") == numbers(paths, "candidate-000")
    assert len(numbers(paths, "candidate-000")) == 4
    assert torch.get_default_dtype() == torch_default
    assert kept.count("store") == 1
    assert kept.count("suite") == 1


def test_what_a_trial_does_to_torch_ends_with_it():
    def settings() -> tuple:
        backend = torch.backends.cuda.matmul.allow_tf32
        return torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), backend

    before = settings()
    draws = []
    for _ in range(2):
        with as_new(1):
            draws.append(torch.rand(1).item())
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            torch.set_autocast_enabled("cpu", True)
            torch.backends.cuda.matmul.allow_tf32 = True
            assert settings() != before
        assert settings() == before
    assert draws[0] == draws[1]


def test_a_device_that_answers_no_more_ends_the_slot():
    check_device(torch.device("cpu"))
    with pytest.raises(SlotBrokenError, match="meta answers no more"):
        check_device(torch.device("meta"))  # computes, and can give no number back: as near as a CPU comes to it


def test_a_worker_whose_gpu_torch_does_not_see_does_not_fall_back_on_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert _device(0.0) == torch.device("cpu")
    with pytest.raises(SlotBrokenError, match=r"^node .*: Ray counts GPUs here and torch sees none; see to"):
        _device(0.5)


def test_a_trial_whose_machine_is_taken_away_is_saved_and_comes_to_the_same_elsewhere(
    paths, cache, tmp_path, monkeypatch
):
    monkeypatch.setattr("prx_model.training.loop.FINITE_CHECK_STEPS", 1)
    undisturbed = SweepPaths(tmp_path / "undisturbed")
    undisturbed.create()
    _train(planned_task(undisturbed, cache, "baseline-seed0", BASELINE))
    task, said = planned_task(paths, cache, "baseline-seed0", BASELINE), iter([False, False, False, True, True])
    leaving = replace(ALONE, is_leaving=lambda: next(said))
    with pytest.raises(LeavingError, match=r"baseline-seed0 will be taken away; it is saved at step 5$"):
        list(train_trial(task, leaving, Kept()))
    assert Ledger(paths).record("baseline-seed0").end is None
    notice = {"cause": NOTICE, "reason": "its machine was about to be taken away", "time": 1.5}
    for _ in range(2):  # the second one finds it in the ledger, and the trial ended
        _train(replace(task, interruptions=[notice]))
    assert Ledger(paths).record("baseline-seed0").interruptions == (
        Interruption(trial="baseline-seed0", step=5, **notice),
    )
    assert numbers(paths, "baseline-seed0") == numbers(undisturbed, "baseline-seed0")
    assert [row.resumed_from for row in Ledger(paths).record("baseline-seed0").evaluations] == [0, 5, 5, 5]


def test_rows_are_json_that_others_can_read(paths, cache):
    _train(planned_task(paths, cache, "baseline-seed0", BASELINE))
    rows = [json.loads(line) for line in paths.trial_ledger("baseline-seed0").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["start", *["evaluation"] * 4, "end"]
    assert torch.isfinite(torch.tensor([row["metrics"][METRIC] for row in rows[1:-1]])).all()


def test_a_trial_that_a_person_asks_to_stop_ends_after_the_evaluation_under_way(paths, cache):
    task = planned_task(paths, cache, "candidate-000", CANDIDATE)
    for row in train_trial(task, ALONE, Kept()):
        if row.step == 6:
            ask_to_stop(paths, "candidate-000", "a typo in\nthe settings")
    record = Ledger(paths).record("candidate-000")
    assert (record.outcome, record.end.step, record.last_step) == (STOPPED, 6, 6)
    assert record.stopped_by_hand
    assert not record.stopped_by_rule
    assert re.fullmatch(r"by hand \(\S+ on \S+, [^)]+\): a typo in the settings", record.end.reason)
    assert not _train(task), "it stays ended"


def test_between_evaluations_a_request_is_heard_too_and_the_time_since_the_last_is_in_the_books(
    paths, cache, monkeypatch
):
    monkeypatch.setattr("prx_model.training.loop.FINITE_CHECK_STEPS", 1)
    monkeypatch.setattr("sweeps.worker.period_s", lambda place: 0.01)
    steps = itertools.count(1)  # evaluations have none of these turns: they are steps 1, 2, 4, 5, 7, ...

    def is_leaving() -> bool:
        if next(steps) == 3:
            ask_to_stop(paths, "baseline-seed0")
            time.sleep(0.5)  # it is heard meanwhile
        return False

    task = planned_task(paths, cache, "baseline-seed0", BASELINE)
    assert [row.step for row in train_trial(task, replace(ALONE, is_leaving=is_leaving), Kept())] == [3]
    record = Ledger(paths).record("baseline-seed0")
    assert (record.outcome, record.end.step, record.last_step) == (STOPPED, 5, 3)
    assert record.stopped_by_hand
    assert record.end.train_s > 0
    assert record.spent_s > Costs.of(record.evaluations).total_s


def test_a_request_is_waited_for_by_a_trial_that_has_not_begun_and_comes_too_late_for_one_at_its_end(paths, cache):
    ask_to_stop(paths, "candidate-000")
    assert not _train(planned_task(paths, cache, "candidate-000", CANDIDATE))
    assert Ledger(paths).record("candidate-000").end.by_hand
    for row in train_trial(planned_task(paths, cache, "candidate-001", CANDIDATE), ALONE, Kept()):
        if row.step == 12:
            ask_to_stop(paths, "candidate-001")
    late = Ledger(paths).record("candidate-001")
    assert (late.outcome, late.end.by_hand) == (FINISHED, False)
