"""The scoreboard: the Pareto set, and candidates that win the objective at the price of another metric."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.ledger import FINISHED, End, Start
from sweeps.report import final_lines
from sweeps.scoreboard import MARK, pareto_set
from tests.sweeps.lab import ALL, OBJECTIVE, OTHER, STEPS, Lab
from tests.sweeps.test_report import assert_whole_and_offline, printed

OVERRIDES = {"repa.teacher": "dinov2s_saliency", "repa.depth": 1, "repa.weight": 0.5}


def trial(lab: Lab, name: str, objective: float, other: float, *, seed: int = 0, confirms: str = "") -> None:
    """A trial whose two metrics are so many times the baseline's."""
    role = "confirmation" if confirms else "candidate"
    start = Start(
        trial=name, role=role, seed=seed, overrides=OVERRIDES, fingerprint="f", num_steps=200, confirms=confirms
    )
    lab.ledger.append(start)
    for step in STEPS:
        lab.row(name, step, 1.0, metrics={OBJECTIVE: 100 * objective, OTHER: 3 * other}, nested={})
    lab.ledger.append(End(trial=name, outcome=FINISHED, step=200, reason="", log=""))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, candidates=3)
    for seed, luck in enumerate((1.0, 1.02)):
        name = f"baseline-seed{seed}"
        lab.ledger.append(
            Start(trial=name, role="baseline", seed=seed, overrides={"repa": None}, fingerprint="f", num_steps=200)
        )
        for step in STEPS:
            lab.row(name, step, 1.0, metrics={OBJECTIVE: 100 * luck, OTHER: 3 * luck}, nested={}, num_samples=ALL)
        lab.ledger.append(End(trial=name, outcome=FINISHED, step=200, reason="", log=""))
    return lab


def test_who_wins_the_objective_and_clearly_loses_elsewhere_is_flagged_everywhere(lab: Lab) -> None:
    trial(lab, "candidate-000", 0.8, 1.3)
    trial(lab, "candidate-001", 0.9, 0.9)
    trial(lab, "candidate-002", 1.0, 1.3)
    summary = lab.summary()
    flag = summary.scoreboard.flag("candidate-000")
    assert flag.startswith(f"clearly loses in {OTHER} (+28.7 %, ")
    assert flag.endswith("spreads)")
    assert list(summary.scoreboard.losses) == ["candidate-000"], "who does not win the objective loses nothing by it"
    assert summary.answer.startswith("Yes, on one seed: candidate-000")
    assert summary.answer.endswith(f"; but it {flag}.")
    assert flag in " ".join(printed(summary, width=200).split())
    page = lab.page()
    assert_whole_and_offline(page)
    assert page.count("clearly loses in") == 4, "in the answer, beside the baseline, in its row, and as a remark"
    assert "candidate-000 (dinov2s_saliency, depth 1/2, weight 0.5) wins mmd_opennsfw and clearly loses in" in page


def test_a_loss_within_the_noise_is_no_flag(lab: Lab) -> None:
    trial(lab, "candidate-000", 0.8, 1.02)
    assert lab.summary().scoreboard.losses == {}
    assert "but it" not in lab.summary().answer


def test_the_pareto_set_is_marked(lab: Lab) -> None:
    trial(lab, "candidate-000", 0.8, 1.3)
    trial(lab, "candidate-001", 0.9, 0.9)
    trial(lab, "candidate-002", 0.95, 0.95)
    summary = lab.summary()
    assert summary.scoreboard.pareto == {"candidate-000", "candidate-001"}
    text = printed(summary)
    assert f"candidate-001 {MARK}" in text
    assert f"candidate-000 * {MARK}" in text
    assert f"candidate-002 {MARK}" not in text
    assert any(line.startswith(MARK) for line in final_lines(summary, lab.paths))
    assert "(Pareto set): candidate-000" in lab.page()


def test_a_confirmed_winner_is_flagged_by_its_intervals(tmp_path: Path, lab: Lab) -> None:
    from dataclasses import replace

    from sweeps.confirmation import Confirm

    lab.space = replace(lab.space, confirm=Confirm(best=1))
    trial(lab, "candidate-000", 0.8, 1.3)
    trial(lab, "candidate-001", 1.2, 1.0)
    trial(lab, "candidate-002", 1.2, 1.0)
    trial(lab, "candidate-000-seed1", 0.8 * 1.02, 1.3 * 1.03, seed=1, confirms="candidate-000")
    summary = lab.summary()
    assert summary.complete
    assert summary.answer.startswith("Yes: candidate-000")
    assert "but it clearly loses in frechet_opennsfw_pc32 (+31.3 %, 95 % interval" in summary.answer


def test_the_baseline_can_be_in_the_set(lab: Lab) -> None:
    trial(lab, "candidate-000", 0.9, 1.3)
    assert f"baseline {MARK}" in printed(lab.summary())


@given(st.dictionaries(st.text(max_size=3), st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_nobody_in_the_set_is_beaten_and_everybody_else_is(points) -> None:
    values = {name: {"a": float(a), "b": float(b)} for name, (a, b) in points.items()}
    chosen = pareto_set(values, {"a": "min", "b": "max"})
    assert chosen

    def beaten(name: str) -> bool:
        a, b = points[name]
        return any(x <= a and y >= b and (x, y) != (a, b) for x, y in points.values())

    assert set(chosen) == {name for name in points if not beaten(name)}
