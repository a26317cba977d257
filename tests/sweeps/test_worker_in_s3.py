"""A trial whose results lie in S3: the real worker, moved from node to node, on a network that fails."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from prx_model.kept import Kept
from prx_model.training import object_storage
from sweeps import locks, slot
from sweeps.leases import LeaseLostError, Terms
from sweeps.ledger import CANDIDATE, FINISHED, STOPPED, EvaluationRow, Ledger, TrialRecord
from sweeps.locations import folders_in, names_in
from sweeps.main import main
from sweeps.obstacles import obstacle
from sweeps.prompts import prompts_of
from sweeps.slot import SlotBrokenError
from sweeps.space import SearchSpace
from sweeps.stop_requests import ask_to_stop
from sweeps.storage import SweepPaths
from sweeps.sweep import Sweep, collect_checkpoints, keep_best_model
from sweeps.task import Task
from sweeps.trial_folder import latest_checkpoint
from sweeps.worker import Place, TrialFailedError, train_trial
from tests.flaky_server import Troubles
from tests.sweeps.trials import SMOKE, numbers, planned_task, smoke_space

ALONE = Place(device=torch.device("cpu"))
TRIAL = "candidate-000"
KEPT = Kept()  # a trial's numbers do not depend on what its process has loaded before: tests/sweeps/test_worker.py


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache) -> list[tuple]:
    """Of the trial on a disk."""
    paths = SweepPaths(tmp_path_factory.mktemp("disk"))
    paths.create()
    list(train_trial(planned_task(paths, cache, TRIAL, CANDIDATE), ALONE, KEPT))
    return numbers(paths, TRIAL)


@pytest.fixture
def paths(stored, cache) -> SweepPaths:
    paths = SweepPaths(stored / "sweep", cache)
    paths.create()
    return paths


def _begun(task: Task, num_evaluations: int) -> list[EvaluationRow]:
    """The trial cut off after so many evaluations."""
    rows = train_trial(task, ALONE, KEPT)
    begun = [next(rows) for _ in range(num_evaluations)]
    rows.close()
    return begun


def test_a_trial_that_goes_on_on_another_node_has_the_numbers_of_one_on_a_disk(paths, cache, undisturbed):
    task = planned_task(paths, cache, TRIAL, CANDIDATE)
    assert [row.step for row in _begun(task, 2)] == [3, 6]
    shutil.rmtree(cache / "sweeps")  # another node has nothing of it
    rows = list(train_trial(task, ALONE, KEPT))
    assert [(row.step, row.resumed_from) for row in rows] == [(9, 6), (12, 6)]
    assert numbers(paths, TRIAL) == undisturbed
    record = Ledger(paths).record(TRIAL)
    assert record is not None
    assert record.end is not None
    assert record.outcome == FINISHED
    assert record.end.log == f"{paths.root}/logs/{TRIAL}.log"
    log = paths.trial_log(TRIAL).read_text()
    assert [f"step {step}: " in log for step in (3, 6, 9, 12)] == [True] * 4
    assert names_in(paths.samples_of(TRIAL)) == {f"step-{step:07d}.png" for step in (3, 6, 9, 12)}
    assert len(prompts_of(paths)) == 16
    assert paths.trial_lock(TRIAL).read_bytes() == b"{}"
    latest = latest_checkpoint(paths, TRIAL)
    assert latest is not None
    assert latest.name.startswith("checkpoint_000000012")
    assert list(train_trial(task, ALONE, KEPT)) == []  # it has ended
    _is_kept_as_the_best_model(paths, cache, record)


def _is_kept_as_the_best_model(paths: SweepPaths, cache: Path, best: TrialRecord) -> None:
    planned_task(paths, cache, "candidate-001", CANDIDATE)  # under way: nothing of it is touched
    (paths.trial_folder("candidate-001") / "checkpoint_000000003" / "state.pt").write_bytes(b"x")
    sweep = Sweep(space=smoke_space(), paths=paths, cache=cache)
    for _ in range(2):  # and another time, in place of the first
        assert keep_best_model(sweep, best) == paths.best_model
    assert paths.best_model.is_dir()
    assert {"model_index.json", "README.md"} <= names_in(paths.best_model)
    index = json.loads((paths.best_model / "model_index.json").read_text())
    assert index["_class_name"] == "PRXPipeline"
    assert not (paths.here / "checkpoints").exists()
    _is_sampled_from(paths, cache, best.trial)
    kept = [folder.name for folder in folders_in(paths.trial_folder(best.trial))]
    assert collect_checkpoints(sweep, best) == 0
    assert [folder.name for folder in folders_in(paths.trial_folder(best.trial))] == kept
    assert kept[-1] == "checkpoint_000000012"
    assert collect_checkpoints(Sweep(space=no_contenders(), paths=paths, cache=cache), None) > 1000
    assert folders_in(paths.trial_folder(best.trial)) == []
    assert (paths.trial_folder("candidate-001") / "checkpoint_000000003").is_dir()


def _is_sampled_from(paths: SweepPaths, cache: Path, trial: str) -> None:
    """The trial and the best model, which are the same."""
    paths.space.write_bytes(SMOKE.read_bytes())
    to = cache / "sampled"
    for which in (trial, "best_model"):
        command = ["sample", which, "--sweep", str(paths.root), "--prompt", "red apple", "--to", str(to)]
        assert main([*command, "--cache", str(cache)]) == 0
    first, second = (Image.open(file).tobytes() for file in sorted(to.iterdir()))
    assert first == second
    shutil.rmtree(to)
    assert not (paths.here / "checkpoints").exists()


def no_contenders() -> SearchSpace:
    space = smoke_space()
    return dataclasses.replace(space, confirm=dataclasses.replace(space.confirm, best=0))


def test_storage_that_does_not_answer_fails_no_trial(stored, cache, undisturbed, troubles: Troubles, monkeypatch):
    monkeypatch.setattr(object_storage, "WAIT_S", 0.01)
    paths = SweepPaths(stored / "sweep", cache)
    task = planned_task(paths, cache, TRIAL, CANDIDATE)
    monkeypatch.setattr(SweepPaths, "at", lambda *_: paths)  # with its short patience
    rows = train_trial(task, ALONE, KEPT)
    assert next(rows).step == 3
    troubles.of, troubles.coming = ("PUT",), ["slow"] * 10_000
    with pytest.raises(TrialFailedError) as caught:
        next(rows)
    line = obstacle(caught.value.cause, paths.root)
    assert line is not None
    assert line.startswith(f"{stored}/sweep/ledger/{TRIAL}/000002.jsonl could not be written in 4 tries; the last: ")
    assert line.endswith("; when the storage answers again, the same command goes on")
    troubles.coming = []
    paths.trial_lock(TRIAL).remove()  # it could not let go of it: half a minute would do the same
    assert [row.step for row in train_trial(task, ALONE, KEPT)] == [6, 9, 12]
    assert numbers(paths, TRIAL) == undisturbed


def test_a_checkpoint_that_cannot_be_sent_fails_no_trial_either(stored, cache, troubles: Troubles, monkeypatch):
    monkeypatch.setattr(object_storage, "ATTEMPTS", 1)
    paths = SweepPaths(stored / "sweep", cache)
    task = planned_task(paths, cache, TRIAL, CANDIDATE)
    rows = train_trial(task, ALONE, KEPT)
    assert next(rows).step == 3
    bucket = object_storage.Bucket
    monkeypatch.setattr(bucket, "complete", lambda *_: object_storage._asked(lambda: 1 / 0))
    with pytest.raises(TrialFailedError) as caught:
        next(rows)
    line = obstacle(caught.value.cause, paths.root)
    assert line is not None
    assert f"checkpoints in {paths.trial_folder(TRIAL)}: StorageError: ZeroDivisionError" in line


def test_an_orphan_that_another_worker_has_replaced_writes_nothing_more_and_leaves_its_slot(paths, cache, monkeypatch):
    monkeypatch.setattr(locks, "TRIAL", Terms(renew_s=600.0, gone_after_s=0.0))
    task = planned_task(paths, cache, TRIAL, CANDIDATE)
    orphan = train_trial(task, ALONE, KEPT)
    assert next(orphan).step == 3
    paths.trial_lock(TRIAL).write_bytes(b'{"pid": 1, "host": "elsewhere"}')
    with pytest.raises(TrialFailedError) as caught:
        next(orphan)
    assert isinstance(caught.value.cause, LeaseLostError)
    assert [row[0] for row in numbers(paths, TRIAL)] == [3]
    assert obstacle(caught.value.cause, paths.root) is None

    def taken_over(*_: object):
        raise caught.value
        yield

    monkeypatch.setattr("sweeps.worker.train_trial", taken_over)
    with pytest.raises(SlotBrokenError, match=f"^{TRIAL}: .* is held by process 1 on elsewhere$"):
        slot._serve_one(None, "slot-0", 0, task, ALONE, KEPT)  # and the desk hears nothing of it


def test_a_person_stops_it_from_another_machine_through_the_storage_alone(paths, cache):
    for row in train_trial(planned_task(paths, cache, TRIAL, CANDIDATE), ALONE, KEPT):
        if row.step == 6:
            ask_to_stop(SweepPaths.at(str(paths.root)), TRIAL, "enough")
    record = Ledger(paths).record(TRIAL)
    assert record is not None
    assert record.end is not None
    assert (record.outcome, record.end.step, record.end.by_hand) == (STOPPED, 6, True)
    assert record.end.reason.endswith("): enough")
