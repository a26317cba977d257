"""Importance of settings: which one decides, what a stopped candidate says, and when nothing is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sweeps.importance import SHUFFLES, importance_of
from sweeps.ledger import STOPPED
from tests.sweeps.lab import Lab
from tests.sweeps.test_report import assert_whole_and_offline, figures_of


def lab_of(folder: Path, count: int, *, stop_heavy: bool = False, mode: str = "min") -> Lab:
    """Candidates whose result depends on the weight alone, and little on chance."""
    rng = np.random.default_rng(3)
    lab = Lab(folder, candidates=count, mode=mode)
    lab.baselines(1.0, 1.03)
    for number in range(count):
        weight = float(np.exp(rng.uniform(np.log(0.05), np.log(2.0))))
        overrides = {
            "repa.teacher": ("dinov2s_saliency", "efficientnet_lite0")[int(rng.integers(2))],
            "repa.depth": int(rng.integers(1, 3)),
            "repa.weight": weight,
        }
        factor = 1 + weight / 10
        stopped = stop_heavy and weight > 1
        lab.trial(
            f"candidate-{number:03d}",
            1 / factor if mode == "max" else factor,
            overrides=overrides,
            until=80 if stopped else 200,
            outcome=STOPPED if stopped else "finished",
        )
    return lab


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_setting_that_decides_has_the_largest_share_and_chance_rarely_does_it(tmp_path: Path, mode: str) -> None:
    lab = lab_of(tmp_path, 20, mode=mode)
    found = importance_of(lab.space, lab.ledger.records())
    assert found is not None
    assert next(iter(found.shares)) == "repa.weight"
    assert found.shares["repa.weight"] > 0.7
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.by_chance["repa.weight"] <= 2
    assert found.by_chance["repa.teacher"] > 5
    assert (found.num_finished, found.num_stopped, found.num_best) == (20, 0, 5)


def test_stopped_candidates_are_no_best_ones_but_show_where_the_bad_ones_lie(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, 20, stop_heavy=True)
    records = lab.ledger.records()
    found, whole = (
        importance_of(lab.space, records),
        importance_of(lab.space, lab_of(tmp_path / "b", 20).ledger.records()),
    )
    assert found is not None
    assert found.num_stopped > 0
    assert found.num_finished + found.num_stopped == 20
    assert whole is not None
    assert found.shares == whole.shares, "the best are the same, and so is where all of them lie"


def test_what_means_nothing_is_as_likely_by_chance(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    likely = []
    for sweep in range(3):
        lab = Lab(tmp_path / str(sweep), candidates=10)
        for number in range(10):
            overrides = {
                "repa.teacher": "dinov2s_saliency",
                "repa.depth": 1 + number % 2,
                "repa.weight": float(rng.uniform(0.05, 2)),
            }
            lab.trial(f"candidate-{number:03d}", 1 + float(rng.uniform(0, 0.1)), overrides=overrides)
        found = importance_of(lab.space, lab.ledger.records())
        assert found is not None
        likely += found.by_chance.values()
    assert np.mean(likely) > 0.2 * SHUFFLES


def test_few_candidates_say_nothing_and_the_page_says_so(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, 4)
    assert importance_of(lab.space, lab.ledger.records()) is None
    page = lab.page()
    assert "4 candidates finished: the importance of settings is told from 5 on." in page
    before = len(figures_of(page))
    lab = lab_of(tmp_path / "more", 6)
    page = lab.page()
    assert_whole_and_offline(page)
    assert "PED-ANOVA: where the best 3 lie, against all; from 6 finished candidates." in page
    assert len(figures_of(page)) == before + 2
