"""Baselines of other sweeps in the same results folder: which are reused, which are not, and what is told of both."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.agenda import missing_baselines
from sweeps.ledger import BASELINE, FAILED, Ledger
from sweeps.provenance import append_start, provenance
from sweeps.report import final_table
from sweeps.reuse import Found, adopt, find, lines
from sweeps.search import SweepSearch
from sweeps.space import Budget
from sweeps.storage import SweepPaths
from tests.sweeps.lab import Lab
from tests.sweeps.space_files import laptop, put, space_of
from tests.sweeps.test_report import printed
from tests.sweeps.test_search import end, evaluate, start

MADE = {**provenance("laptop", "a test", hardware="2 cores"), "time": "2026-01-02T03:04:05+0000"}


def sweep_folder(folder: Path, space, name: str = "older", made=MADE, seeds=(4, 5), outcome="finished") -> Ledger:
    """A sweep whose baseline seeds have been trained."""
    paths = SweepPaths(folder / name)
    paths.create()
    ledger = Ledger(paths)
    if made:
        append_start(paths.starts, made)
    for seed in seeds:
        start(ledger, space, f"baseline-seed{seed}", seed=seed, time=time.time())
        evaluate(ledger, f"baseline-seed{seed}", 60, 9.0 + seed)
        end(ledger, f"baseline-seed{seed}", outcome)
    picture = paths.sample_grid("baseline-seed4", 60)
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"a picture")
    return ledger


def new_paths(folder: Path) -> SweepPaths:
    paths = SweepPaths(folder / "newer")
    paths.create()
    return paths


def test_a_baseline_of_the_same_settings_made_alike_is_taken_over_whole(tmp_path) -> None:
    """The other sweep searches something else: that is no part of a baseline."""
    older = sweep_folder(tmp_path, space_of())
    space = space_of(put("space", "repa.weight", value={"uniform": [0.1, 1]}))
    assert space.fingerprint != space_of().fingerprint
    paths = new_paths(tmp_path)
    found = find(space, paths, MADE)
    assert [(one.seed, one.source.name) for one in found.reusable] == [(4, "older"), (5, "older")]
    assert found.refused == ()
    adopt(found, paths)
    ledger = Ledger(paths)
    assert missing_baselines(space, ledger.records()) == []
    for name in ("baseline-seed4", "baseline-seed5"):
        mine, theirs = ledger.record(name), older.record(name)
        assert mine is not None
        assert theirs is not None
        assert mine.start == replace(theirs.start, reused_from="older")
        assert (mine.evaluations, mine.end) == (theirs.evaluations, theirs.end)
    assert paths.sample_grid("baseline-seed4", 60).read_bytes() == b"a picture"
    assert lines(found, ledger.records()) == ["seeds 4, 5 reused from older"]
    assert SweepSearch(space, ledger).suggest("t0")["planned"]["trial"] == "candidate-000"
    assert find(space, paths, MADE) == Found(), "nothing is missing any more"


def test_what_is_taken_over_is_not_passed_on(tmp_path) -> None:
    """Who made it is known from the sweep that did."""
    sweep_folder(tmp_path, space_of())
    paths = new_paths(tmp_path)
    append_start(paths.starts, MADE)
    adopt(find(space_of(), paths, MADE), paths)
    third = SweepPaths(tmp_path / "third")
    assert {one.source.name for one in find(space_of(), third, MADE).reusable} == {"older"}


@pytest.mark.parametrize(
    "change",
    [
        laptop({"evaluation.num_samples": 128}),
        laptop({"training.eval_every_steps": 120}),
        laptop({"training.steps": 300}),
        laptop({"training.learning_rate": 1.0e-3}),
        laptop({"model": "prx_tiny"}),
        laptop({"data.num_heldout": 300}),
        laptop({"evaluation.metrics": ["mmd_opennsfw"]}),
        laptop({"seed": 9}),
    ],
)
def test_other_settings_never_share_a_baseline(tmp_path, change) -> None:
    sweep_folder(tmp_path, space_of())
    assert find(space_of(change), new_paths(tmp_path), MADE) == Found()


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({"model_code": "0" * 12}, f"model code {'0' * 12} there, {MADE['model_code']} here"),
        ({"hardware": "an H100"}, "machine an H100 there, 2 cores here"),
        ({"packages": {**MADE["packages"], "torch": "1.0"}}, f"torch 1.0 there, {MADE['packages']['torch']} here"),
        ({"data": "abc"}, "data abc there, not recorded here"),
        ({"time": "2099-01-02T03:04:05+0000"}, "it is not recorded what it was made with"),
        ({"time": "once"}, "it is not recorded what it was made with"),
    ],
)
def test_what_was_made_otherwise_is_told_and_not_reused(tmp_path, made, told) -> None:
    sweep_folder(tmp_path, space_of(), made={**MADE, **made})
    found = find(space_of(), new_paths(tmp_path), MADE)
    assert found.reusable == ()
    assert found.refused == (f"the baseline of older is not reused: {told}",)
    assert lines(found, []) == list(found.refused)


def test_packages_that_compute_nothing_may_differ(tmp_path) -> None:
    sweep_folder(tmp_path, space_of(), made={**MADE, "packages": {**MADE["packages"], "optuna": "4"}, "commit": "x"})
    assert len(find(space_of(), new_paths(tmp_path), MADE).reusable) == 2


def test_a_baseline_that_was_resumed_under_other_versions_is_not_reused(tmp_path) -> None:
    older = sweep_folder(tmp_path, space_of(), seeds=())
    start(older, space_of(), "baseline-seed4", seed=4, time=time.time() - 100)
    append_start(older.paths.starts, {**provenance("laptop", "resumed", hardware="2 cores"), "model_code": "other"})
    evaluate(older, "baseline-seed4", 60, 9.0)
    end(older, "baseline-seed4", "finished")
    assert find(space_of(), new_paths(tmp_path), MADE).reusable == ()


def test_only_finished_baselines_of_readable_ledgers_count(tmp_path) -> None:
    sweep_folder(tmp_path, space_of(), outcome=FAILED)
    other = sweep_folder(tmp_path, space_of(), name="unfinished", seeds=())
    start(other, space_of(), "baseline-seed4", seed=4)
    odd = SweepPaths(tmp_path / "odd")
    odd.create()
    odd.trial_ledger("baseline-seed4").write_text('{"kind": "of a later version"}\n')
    (tmp_path / "a file").write_text("")
    assert find(space_of(), new_paths(tmp_path), MADE) == Found()


def test_seeds_that_are_there_are_reused_and_the_others_are_trained(tmp_path) -> None:
    sweep_folder(tmp_path, space_of())
    space = replace(space_of(), budget=Budget(candidates=6, baseline_seeds=3))
    paths = new_paths(tmp_path)
    adopt(find(space, paths, MADE), paths)
    assert [plan.trial for plan in missing_baselines(space, Ledger(paths).records())] == ["baseline-seed6"]


def test_compute_of_a_reused_baseline_is_counted_where_it_was_spent(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=1)
    lab.baselines(1.0, 1.03)
    lab.trial("candidate-000", 0.9)
    paid = lab.summary().compute.spent_s
    other = Lab(tmp_path / "other", candidates=1)
    for seed, factor in enumerate((1.0, 1.03)):
        other.trial(f"baseline-seed{seed}", factor, role=BASELINE, seed=seed, reused_from="repa-laptop-older")
    other.trial("candidate-000", 0.9)
    summary = other.summary()
    assert summary.compute.spent_s == pytest.approx(paid / 3)
    assert summary.compute.num_sampled == summary.compute.num_full == lab.summary().compute.num_full / 3
    assert summary.best is not None
    assert summary.best.reading == lab.summary().best.reading
    assert "2 of 2 seeds finished, 2 reused from repa-laptop-older" in " ".join(printed(summary, width=160).split())
    assert final_table(summary).row_count == 2
    page = other.page()
    assert page.count("reused from repa-laptop-older") >= 4
