"""Optuna's study: its sampler's settings, what a killed sweep suggests next, and what an earlier sweep teaches it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from sweeps.ledger import FAILED, FINISHED, STOPPED, Ledger
from sweeps.search import SweepSearch
from sweeps.space import SpaceError
from sweeps.space_file import with_budget
from sweeps.storage import SweepPaths
from sweeps.study import Sampler, sampler_of
from sweeps.summary import summarise
from sweeps.warm_start import read_earlier
from tests.sweeps.space_files import laptop, message_of, put, space_of
from tests.sweeps.test_search import (
    METRIC,
    all_baselines,
    candidate_name,
    end,
    evaluate,
    optunas_trials,
    overrides_of,
    run,
    start,
)


@pytest.fixture
def space():
    return with_budget(space_of(), candidates=9)


def new_ledger(folder: Path) -> Ledger:
    paths = SweepPaths(folder)
    paths.create()
    return Ledger(paths)


def test_a_sweep_that_is_killed_anywhere_suggests_what_it_would_have_suggested(space, tmp_path) -> None:
    """Two candidates at a time, the later one ending first now and then; a copy of the ledger at every suggestion."""
    ledger = new_ledger(tmp_path / "whole")
    all_baselines(ledger, space)
    search, live = SweepSearch(space, ledger), []
    for number in range(9):
        if len(live) == 2:
            tune_id = live.pop(number % 3 == 0)
            trial = f"candidate-{tune_id[1:]}"
            evaluate(ledger, trial, 60, 9.0 + int(tune_id[1:]) % 4)
            end(ledger, trial, (FINISHED, STOPPED, FINISHED, FAILED)[number % 4])
            search.on_trial_complete(tune_id, None)
        killed = tmp_path / f"killed-{number}"
        shutil.copytree(ledger.paths.root, killed)
        search.suggest(f"t{number:03d}")
        again = SweepSearch(space, Ledger(SweepPaths(killed)))
        names = [again.suggest(f"again-{i}")["planned"]["trial"] for i in range(len(live) + 1)]
        assert names == [*sorted(f"candidate-{tune_id[1:]}" for tune_id in live), candidate_name(number)]
        assert overrides_of(again.ledger, names[-1]) == overrides_of(ledger, names[-1]), number
        live.append(f"t{number:03d}")
    weights = {overrides_of(ledger, candidate_name(number))["repa.weight"] for number in range(9)}
    assert len(weights) == 9


def test_the_samplers_settings_reach_optuna(space) -> None:
    sampler = sampler_of(space, 0)
    assert isinstance(sampler, TPESampler)
    assert (sampler._multivariate, sampler._group, sampler._constant_liar, sampler._n_startup_trials) == (
        True,
        False,
        True,
        3,
    )
    settings = {"name": "tpe", "multivariate": True, "group": True, "constant_liar": False, "seed": 7, "startup": 5}
    other = sampler_of(space_of(put("sampler", value=settings)), 0)
    assert isinstance(other, TPESampler)
    assert (other._group, other._constant_liar, other._n_startup_trials) == (True, False, 5)
    assert isinstance(sampler_of(space_of(put("sampler", value={"name": "random"})), 0), RandomSampler)


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_a_seed_decides_what_is_suggested_and_not_which_sweep_it_is(space, tmp_path, name) -> None:
    suggested = {}
    for seed in (None, 1, 1, 2):
        seeded = replace(space, sampler=Sampler(name=name, seed=seed), points=())
        assert seeded.fingerprint == replace(space, points=()).fingerprint
        ledger = new_ledger(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        search = SweepSearch(seeded, ledger)
        for number in range(6):
            run(search, ledger, f"t{number}", values=(9.0, 8.0 - number))
        found = [overrides_of(ledger, candidate_name(number)) for number in range(4)]
        assert suggested.setdefault(seed, found) == found
    assert len({str(found) for found in suggested.values()}) == 3


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        ({"name": "tpee"}, "sampler.name: got 'tpee', allowed is tpe or random"),
        ({"startup": 0}, "sampler.startup: got 0, allowed is null or an integer of at least 1"),
        (
            {"group": True, "multivariate": False},
            "sampler.group: got true, allowed is false where multivariate is false",
        ),
        ({"name": "random", "startup": 3}, "sampler.startup: got 3, which is read only with name tpe"),
        ({"seed": 1.5}, "sampler.seed: got 1.5, allowed is an integer or null"),
        ({"liar": True}, "sampler.liar: no such setting; allowed is name, multivariate, group, constant_liar, seed"),
    ],
)
def test_what_a_sampler_cannot_be_is_one_line(sampler, told) -> None:
    assert message_of(put("sampler", value=sampler)).startswith(told)


# Warm start.


def older_sweep(folder: Path, space) -> Ledger:
    """Three candidates that would be the same here: finished, stopped, failed. And three that would not."""
    ledger = new_ledger(folder)
    all_baselines(ledger, space)
    base = {"repa.teacher": "efficientnet_lite0", "repa.depth": 3, "repa.weight": 0.3}
    for number, outcome in enumerate((FINISHED, STOPPED, FAILED)):
        name = candidate_name(number)
        start(ledger, space, name, overrides={**base, "repa.weight": 0.1 + number / 10}, time=10.0 + number)
        evaluate(ledger, name, 60, 9.0)
        evaluate(ledger, name, 120, 5.0 + number)
        end(ledger, name, outcome)
    start(ledger, space_of(laptop({"training.batch_size": 16})), "candidate-003", overrides=base, time=20)
    end(ledger, "candidate-003", FAILED)
    start(ledger, space, "candidate-004", overrides={**base, "repa.weight": 1.9}, time=21)
    start(ledger, space, "candidate-005", overrides={**base, "repa.depth": 5}, time=22)
    end(ledger, "candidate-005", FINISHED)
    evaluate(ledger, "candidate-005", 60, 9.0)
    return ledger


def test_an_earlier_sweep_teaches_the_study_and_is_not_in_the_table(tmp_path) -> None:
    older_sweep(tmp_path / "older", space_of())
    space = space_of(put("warm_start", value=[str(tmp_path / "older")]))
    # 0.25 to 0.65 of six blocks are 2 to 4: the candidate at depth 5 lies outside.
    narrower = space_of(
        lambda content: content.update(
            warm_start=[str(tmp_path / "older")], space={**content["space"], "repa.depth": {"fraction": [0.25, 0.65]}}
        )
    )
    assert space.fingerprint == space_of().fingerprint
    ledger = new_ledger(tmp_path / "newer")
    search = SweepSearch(narrower, ledger)
    told = optunas_trials(search)
    assert [trial.state for trial in told] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert [trial.intermediate_values for trial in told] == [{60: 9.0, 120: 5.0 + number} for number in range(3)]
    assert read_earlier(narrower, ledger.paths).lines == (
        "3 of 6 candidates of older; not: 1 with other settings than this sweep's, 1 not ended, 1 outside this space",
    )
    assert len(read_earlier(space, ledger.paths).records) == 4
    for number in range(3):
        run(search, ledger, f"t{number}")
    assert [trial.name for trial in summarise(narrower, ledger).candidates] == ["candidate-000"]
    assert len(optunas_trials(SweepSearch(narrower, ledger))) == 4


def test_a_warm_start_from_itself_counts_nothing_twice_and_from_nowhere_is_one_line(tmp_path) -> None:
    ledger = older_sweep(tmp_path / "older", space_of())
    space = space_of(put("warm_start", value=[str(tmp_path / "older")]))
    assert read_earlier(space, ledger.paths).records == ()
    nowhere = space_of(put("warm_start", value=[str(tmp_path / "nowhere")]))
    with pytest.raises(SpaceError, match=r"x.yaml: warm_start\[0\]: got .*nowhere, which has no ledger; allowed is"):
        read_earlier(nowhere, ledger.paths)
    assert message_of(put("warm_start", value="older")) == (
        "warm_start: got 'older', allowed is a list of folders of earlier sweeps"
    )
    assert message_of(put("warm_start", value=["a", "a"])) == "warm_start[1]: got 'a' twice, allowed is once"


def test_a_raised_budget_leaves_what_is_there_as_it_is(space, tmp_path) -> None:
    ledger = new_ledger(tmp_path / "sweep")
    few = with_budget(space, candidates=3)
    search = SweepSearch(few, ledger)
    while run(search, ledger, f"t{len(ledger.trials())}", values=(9.0, 5.0)) is not None:
        pass
    before = {name: ledger.paths.trial_ledger(name).read_bytes() for name in ledger.trials()}
    assert len(before) == 5
    search = SweepSearch(space, ledger)
    told = [trial for trial in search.study.optuna.trials if trial.state == TrialState.COMPLETE]
    assert [trial.values for trial in told] == [[5.0]] * 3
    while run(search, ledger, f"t{len(ledger.trials())}", values=(9.0, 5.0)) is not None:
        pass
    assert len(ledger.trials()) == 11
    assert {name: ledger.paths.trial_ledger(name).read_bytes() for name in before} == before
    assert METRIC in ledger.records()[-1].evaluations[-1].metrics
