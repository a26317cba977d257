"""What `make e2e` lays over cluster.yaml and how it compares sweeps, as far as no host is needed for it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from sweeps.ledger import End, EvaluationRow, Start, TrialRecord
from sweeps.space_file import read_space, resolve
from tests.e2e.hosts import ON_HOSTS
from tests.e2e.launcher import OVERLAY, ROOT, container_environment, laid_over, shipped
from tests.e2e.watched import SPACE, differences, findings

LAID_OVER = yaml.safe_load(OVERLAY.read_text())


def keys(tree: Any, *above: str) -> set[tuple[str, ...]]:
    """The path of every key. Resources are names of their own, not settings."""
    if not isinstance(tree, dict) or "resources" in above:
        return set()
    return {(*above, key) for key in tree} | set().union(*(keys(it, *above, key) for key, it in tree.items()), set())


def test_overlay_changes_only_what_the_shipped_file_has() -> None:
    assert keys(LAID_OVER) <= keys(shipped())


def test_laid_over_file_is_one_that_ray_takes() -> None:
    merged = laid_over(shipped(), LAID_OVER)
    validate_config(prepare_config(copy.deepcopy(merged)))
    assert "docker" not in merged
    # What the sweep rests on is the shipped file's own.
    for key in ("file_mounts", "head_start_ray_commands", "worker_start_ray_commands", "provider"):
        assert merged[key] == shipped()[key]


def test_null_takes_a_key_out_and_leaves_the_rest() -> None:
    below = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert laid_over(below, {"a": {"b": None, "e": 3}, "d": [2]}) == {"a": {"c": 2, "e": 3}, "d": [2]}
    assert below == {"a": {"b": 1, "c": 2}, "d": [1]}


def test_environment_of_the_container_reaches_the_hosts() -> None:
    assert container_environment(shipped())["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize(("path", "answered_by"), [(str(ROOT), "sweeps.slot"), (f"{ROOT}:{ON_HOSTS}", "sitecustomize")])
def test_only_on_hosts_nobody_asks_for_the_gpus_themselves(path: str, answered_by: str) -> None:
    """And wherever it runs, a trial's driver imports no torch: there is one for every trial that is open."""
    words = "import sys, sweeps.trial; print(sys.modules['sweeps.slot'].unseen_gpus.__module__, 'torch' in sys.modules)"
    told = subprocess.check_output([sys.executable, "-c", words], env={**os.environ, "PYTHONPATH": path}, text=True)
    assert told.split() == [answered_by, "False"]


@pytest.mark.parametrize(("profile", "workers"), [("cluster", 1), ("wide", 2)])
def test_hosts_of_the_overlay_hold_a_trial_of_its_space(profile: str, workers: int) -> None:
    file = Path(__file__).resolve().parent.parent / SPACE
    resources = resolve(read_space(file), file=file, profile=profile).resources
    node = LAID_OVER["available_node_types"]["gpu1"]
    assert resources.workers == workers
    assert node["resources"]["GPU"] == resources.gpus_per_worker == 1  # a worker a host: two workers span two
    assert node["max_workers"] >= workers
    assert LAID_OVER["available_node_types"]["head"]["resources"]["driver"] >= resources.concurrent_trials


def record(value: float, outcome: str = "finished", **told: Any) -> TrialRecord:
    row = EvaluationRow(
        trial="t", step=50, metrics={"mmd": value}, num_samples=16, flow_loss=1.0, repa_loss=None, grad_norm=1.0,
        images_per_s=told.get("images_per_s", 1.0), train_s=1.0, eval_s=1.0, peak_memory_bytes=1,
        resumed_from=told.get("resumed_from", 0),
    )  # fmt: skip
    start = Start(trial="t", role="baseline", seed=0, overrides={}, fingerprint="f", num_steps=50)
    return TrialRecord(start=start, evaluations=(row,), end=End(trial="t", outcome=outcome, step=50, reason="", log=""))


def test_sweeps_that_differ_in_time_only_are_the_same() -> None:
    one, other = findings([record(0.5)]), findings([record(0.5, images_per_s=9.0, resumed_from=25)])
    assert differences(one, other) == []


@pytest.mark.parametrize("other", [[record(0.5 + 1e-12)], [record(0.5, "stopped")], []])
def test_another_value_end_or_trial_is_noticed(other: list[TrialRecord]) -> None:
    assert len(differences(findings([record(0.5)]), findings(other))) == 1
