"""The worker in Ray's local mode: the real loop function, model, data, teacher and metric, without a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from prx_model.experiment import prepare
from sweeps.config import fingerprint, to_plain
from sweeps.ledger import BASELINE, CANDIDATE, FAILED, FINISHED, STOPPED, EvaluationRow, Ledger, Start
from sweeps.space import load_space
from sweeps.storage import SweepPaths
from sweeps.worker import Task, train_trial

SMOKE = Path(__file__).parent.parent / "spaces" / "smoke.yaml"
OVERRIDES = {"repa.teacher": "dinov2s_saliency", "repa.depth": 1, "repa.weight": 0.5}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    space = load_space(SMOKE, "laptop")
    prepare(space.candidate_config(OVERRIDES), folder)
    return folder


@pytest.fixture
def paths(tmp_path) -> SweepPaths:
    paths = SweepPaths(tmp_path / "sweep")
    paths.create()
    return paths


def _task(paths: SweepPaths, cache: Path, trial: str, role: str, *, stop=None, change=None) -> Task:
    space = load_space(SMOKE, "laptop")
    config = to_plain(space.baseline_config(0) if role == BASELINE else space.candidate_config(OVERRIDES))
    for section, values in (change or {}).items():
        config[section] |= values
    Ledger(paths).append(
        Start(
            trial=trial,
            role=role,
            seed=0,
            overrides={} if role == BASELINE else OVERRIDES,
            fingerprint=fingerprint(config),
            num_steps=config["training"]["steps"],
        )
    )
    return Task(
        trial=trial,
        role=role,
        config=config,
        root=str(paths.root),
        cache=str(cache),
        metric="mmd_lite0",
        mode="min",
        stop=stop or {"margin": 2.0, "patience": 2, "grace": 0.2},
        num_threads=1,
    )


def _train(task: Task, tmp_path: Path) -> None:
    trainer = TorchTrainer(
        train_trial,
        train_loop_config=task.plain(),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name=task.trial, storage_path=str(tmp_path / "ray")),
    )
    trainer.fit()


def _write_baseline(paths: SweepPaths, trial: str, values: dict[int, float]) -> None:
    ledger = Ledger(paths)
    ledger.append(Start(trial=trial, role=BASELINE, seed=0, overrides={}, fingerprint="x", num_steps=12))
    for step, value in values.items():
        ledger.append(
            EvaluationRow(
                trial=trial,
                step=step,
                metrics={"mmd_lite0": value},
                num_samples=16,
                flow_loss=1.0,
                repa_loss=None,
                grad_norm=1.0,
                images_per_s=1.0,
                train_s=1.0,
                eval_s=1.0,
                peak_memory_bytes=1,
                resumed_from=0,
            )
        )


def test_a_baseline_trains_to_the_end_and_is_not_judged(paths, cache, tmp_path):
    _train(_task(paths, cache, "baseline-seed0", BASELINE), tmp_path)
    record = Ledger(paths).record("baseline-seed0")
    assert record.outcome == FINISHED
    assert [row.step for row in record.evaluations] == [3, 6, 9, 12]
    assert all(row.verdict is None and row.repa_loss is None for row in record.evaluations)
    assert all(paths.sample_grid("baseline-seed0", step).is_file() for step in (3, 6, 9, 12))
    assert "step 12" in paths.trial_log("baseline-seed0").read_text()


def test_a_candidate_far_behind_the_baseline_ends_by_itself(paths, cache, tmp_path):
    for seed, factor in ((0, 1.0), (1, 1.01)):
        _write_baseline(paths, f"baseline-seed{seed}", dict.fromkeys((3, 6, 9, 12), 10.0 * factor))
    _train(_task(paths, cache, "candidate-000", CANDIDATE), tmp_path)
    record = Ledger(paths).record("candidate-000")
    assert record.outcome == STOPPED
    assert record.last_step == 6
    assert record.evaluations[-1].verdict["strikes"] == 2
    assert record.evaluations[-1].repa_loss is not None
    assert "in a row" in record.end.reason


def test_a_candidate_is_judged_only_where_the_baseline_has_been(paths, cache, tmp_path):
    for seed, factor in ((0, 1.0), (1, 1.01)):
        _write_baseline(paths, f"baseline-seed{seed}", {3: 10.0 * factor})
    _train(_task(paths, cache, "candidate-000", CANDIDATE), tmp_path)
    record = Ledger(paths).record("candidate-000")
    assert record.outcome == FINISHED
    assert {row.verdict["judged_step"] for row in record.evaluations} == {3}


def test_divergence_is_recorded_with_its_step_and_does_not_leave_the_worker(paths, cache, tmp_path):
    change = {"training": {"learning_rate": 1e30, "grad_clip": 1e30, "warmup_steps": 0}}
    _train(_task(paths, cache, "candidate-000", CANDIDATE, change=change), tmp_path)
    record = Ledger(paths).record("candidate-000")
    assert record.outcome == FAILED
    assert 1 <= record.end.step <= 12
    assert "diverged" in record.end.reason
    assert f"step {record.end.step}" in record.end.reason
    assert "DivergedError" in Path(record.end.log).read_text()


def test_an_exception_is_recorded_with_its_place(paths, cache, tmp_path):
    task = _task(paths, cache, "candidate-000", CANDIDATE, change={"data": {"source": "store", "path": "/no/such"}})
    _train(task, tmp_path)
    record = Ledger(paths).record("candidate-000")
    assert record.outcome == FAILED
    assert "/no/such" in record.end.reason
    assert record.end.step == 0


def test_the_same_seed_gives_the_same_numbers(paths, cache, tmp_path):
    for trial in ("candidate-000", "candidate-001"):
        _train(_task(paths, cache, trial, CANDIDATE), tmp_path)
    first, second = (Ledger(paths).record(trial) for trial in ("candidate-000", "candidate-001"))
    assert first.curve("mmd_lite0") == second.curve("mmd_lite0")
    assert [row.flow_loss for row in first.evaluations] == [row.flow_loss for row in second.evaluations]


def test_rows_are_json_that_others_can_read(paths, cache, tmp_path):
    _train(_task(paths, cache, "baseline-seed0", BASELINE), tmp_path)
    rows = [json.loads(line) for line in paths.trial_ledger("baseline-seed0").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["start", *["evaluation"] * 4, "end"]
    assert torch.isfinite(torch.tensor([row["metrics"]["mmd_lite0"] for row in rows[1:-1]])).all()
