"""Trials small enough for a test: the smoke space's, with the real model, data, teacher and metric."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest

from prx_model.experiment import prepare
from sweeps.config import fingerprint, to_plain
from sweeps.ledger import BASELINE, EvaluationRow, Ledger, Start
from sweeps.space import SearchSpace
from sweeps.space_file import load_space
from sweeps.storage import SweepPaths
from sweeps.task import Task

SMOKE = Path(__file__).parent.parent / "spaces" / "smoke.yaml"
OVERRIDES = {"repa.teacher": "dinov2s_saliency", "repa.depth": 1, "repa.weight": 0.5}
METRIC = "mmd_lite0"
DIVERGING = {"training": {"learning_rate": 1e30, "grad_clip": 1e30, "warmup_steps": 0}}
TOO_LARGE = {"model": {"hidden_size": 2**20}}  # its first projection alone has 13 TB


def smoke_space() -> SearchSpace:
    return load_space(SMOKE, "laptop")


def filled_cache(factory: pytest.TempPathFactory) -> Path:
    """Data, teachers and reference features of the smoke space, made once for all of pytest's processes."""
    base = factory.getbasetemp()
    if base.name.startswith("popen-"):  # of one of several processes
        base = base.parent
    with (base / "cache.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        prepare(smoke_space().candidate_config(OVERRIDES), base / "cache")
    return base / "cache"


def planned_task(paths: SweepPaths, cache: Path, trial: str, role: str, *, stop=None, change=None) -> Task:
    """A task whose start is in the ledger. change: settings by section, over those of the smoke space."""
    space = smoke_space()
    config: dict[str, Any] = to_plain(
        space.baseline_config(0) if role == BASELINE else space.candidate_config(OVERRIDES)
    )
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
        metric=METRIC,
        mode="min",
        stop=stop or {"margin": 2.0, "patience": 2, "grace": 0.2, "audit": 0.0},
        num_threads=1,
    )


def write_baseline(
    paths: SweepPaths,
    trial: str,
    values: dict[int, float],
    counts: tuple[int, ...] = (16,),
    *,
    role: str = BASELINE,
) -> None:
    """A baseline, or a trial of another role, of which only the metric's values matter, alike for all `counts`."""
    ledger = Ledger(paths)
    ledger.append(Start(trial=trial, role=role, seed=0, overrides={}, fingerprint="x", num_steps=12))
    for step, value in values.items():
        ledger.append(
            EvaluationRow(
                trial=trial,
                step=step,
                metrics={METRIC: value},
                num_samples=counts[-1],
                nested={str(count): {METRIC: value} for count in counts},
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


def numbers(paths: SweepPaths, trial: str) -> list[tuple[Any, ...]]:
    """What a trial has computed, without what a clock has measured."""
    record = Ledger(paths).record(trial)
    assert record is not None
    return [
        (row.step, row.num_samples, row.metrics, row.nested, row.flow_loss, row.repa_loss, row.grad_norm)
        for row in record.evaluations
    ]
