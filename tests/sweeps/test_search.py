from __future__ import annotations

import warnings

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from sweeps.agenda import candidate_name, missing_baselines, num_open
from sweeps.config import deciding, fingerprint, load_config, to_plain
from sweeps.ledger import BASELINE, CANDIDATE, FAILED, FINISHED, STOPPED, End, EvaluationRow, Ledger, Start
from sweeps.search import SweepSearch
from sweeps.space_file import with_budget
from sweeps.storage import SweepPaths
from tests.sweeps.space_files import laptop, space_of

METRIC = "mmd_opennsfw"
POINT = {"repa.teacher": "dinov2s_saliency", "repa.depth": 2, "repa.weight": 0.5}
# Two overrides that only differ in what a wrong order would mix up.
FIRST = {"repa.teacher": "efficientnet_lite0", "repa.depth": 5, "repa.weight": 0.07123456789}
SECOND = {"repa.teacher": "efficientnet_lite0", "repa.depth": 1, "repa.weight": 1.9}


@pytest.fixture
def space():
    return space_of()


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    paths = SweepPaths(tmp_path / "sweep")
    paths.create()
    return Ledger(paths)


def start(ledger, space, trial, *, overrides=None, seed=4, time=0.0):
    role = CANDIDATE if overrides is not None else BASELINE
    config = space.baseline_config(seed) if overrides is None else space.candidate_config(overrides)
    ledger.append(
        Start(
            trial=trial,
            role=role,
            seed=seed,
            overrides=space.baseline if overrides is None else overrides,
            fingerprint=fingerprint(deciding(to_plain(config))),
            num_steps=config.training.steps,
            time=time,
        )
    )


def evaluate(ledger, trial, step, value, nested=None):
    """One row; `nested`: number of samples -> value, where it is not on all of them."""
    looks = nested or {256: value}
    ledger.append(
        EvaluationRow(
            trial=trial,
            step=step,
            metrics={METRIC: value, "frechet_opennsfw_pc32": 1.0},
            num_samples=max(looks),
            nested={str(n): {METRIC: there} for n, there in looks.items()},
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


def end(ledger, trial, outcome, step=240):
    ledger.append(End(trial=trial, outcome=outcome, step=step, reason="", log=""))


def run(search, ledger, tune_id, values=(9.0, 8.0), outcome=FINISHED):
    """One trial from Optuna's suggestion to its end, as Tune and the worker would do it. Returns what was planned."""
    suggestion = search.suggest(tune_id)
    if suggestion == Searcher.FINISHED:
        return None
    trial = suggestion["planned"]["trial"]
    for position, value in enumerate(values):
        evaluate(ledger, trial, 60 * (position + 1), value)
        search.on_trial_result(tune_id, {METRIC: value, "training_iteration": position + 1})
    end(ledger, trial, outcome)
    search.on_trial_complete(tune_id, {METRIC: values[-1]} if values else None, error=outcome == FAILED)
    return suggestion["planned"]


def optunas_trials(search):
    return [trial for trial in search.study.optuna.trials if trial.state != TrialState.WAITING]


def overrides_of(ledger, trial):
    return dict(ledger.record(trial).start.overrides)


def all_baselines(ledger, space):
    for seed in space.baseline_seeds:
        start(ledger, space, f"baseline-seed{seed}", seed=seed)
        end(ledger, f"baseline-seed{seed}", FINISHED)


def test_a_new_sweep_runs_baselines_then_points_then_suggestions_and_no_more_than_its_budget(space, ledger):
    search = SweepSearch(space, ledger)
    assert num_open(space, []) == 8
    planned = []
    while (done := run(search, ledger, f"tune-{len(planned)}")) is not None:
        planned.append(done)
    assert [plan["trial"] for plan in planned] == [
        "baseline-seed4",
        "baseline-seed5",
        *[candidate_name(number) for number in range(6)],
    ]
    assert [plan["role"] for plan in planned] == [BASELINE] * 2 + [CANDIDATE] * 6
    assert overrides_of(ledger, "candidate-000") == POINT
    assert search.suggest("one-more") == Searcher.FINISHED
    assert num_open(space, ledger.records()) == 0
    assert len(optunas_trials(search)) == 6


def test_what_is_planned_is_the_config_of_the_space_and_the_ledger_knows_it_first(space, ledger):
    search = SweepSearch(space, ledger)
    for number in range(4):
        plan = search.suggest(f"tune-{number}")["planned"]
        record = ledger.record(plan["trial"])
        expected = (
            space.baseline_config(record.start.seed)
            if plan["role"] == BASELINE
            else space.candidate_config(record.start.overrides)
        )
        assert load_config(plan["config"]) == expected
        assert record.start.fingerprint == fingerprint(deciding(plan["config"]))
        assert (record.start.role, record.start.num_steps) == (plan["role"], 240)
        assert record.start.seed == plan["config"]["seed"] == (4 + number if number < 2 else 4)


def test_a_resumed_sweep_first_ends_what_was_begun(space, ledger):
    start(ledger, space, "baseline-seed5", seed=5, time=1)
    start(ledger, space, "candidate-000", overrides=FIRST, time=2)
    start(ledger, space, "candidate-001", overrides=SECOND, time=3)
    start(ledger, space, "candidate-002", overrides={**FIRST, "repa.depth": 3}, time=4)
    evaluate(ledger, "candidate-000", 60, 9.0)
    end(ledger, "candidate-001", FAILED)
    assert [plan.trial for plan in missing_baselines(space, ledger.records())] == ["baseline-seed4"]
    assert num_open(space, ledger.records()) == 3 + 1 + 3

    search = SweepSearch(space, ledger)
    order = [search.suggest(f"tune-{number}")["planned"]["trial"] for number in range(7)]
    assert order == [
        "baseline-seed5",
        "baseline-seed4",
        "candidate-000",
        "candidate-002",
        "candidate-003",
        "candidate-004",
        "candidate-005",
    ]
    assert search.suggest("one-more") == Searcher.FINISHED
    assert overrides_of(ledger, "candidate-003") == POINT


def test_unfinished_candidates_are_optunas_trials_with_exactly_their_own_settings(space, ledger):
    all_baselines(ledger, space)
    for number, overrides in enumerate((FIRST, SECOND)):
        start(ledger, space, candidate_name(number), overrides=overrides, time=10 + number)
        evaluate(ledger, candidate_name(number), 60, 9.0 - number)
    search = SweepSearch(space, ledger)
    planned = [search.suggest(f"tune-{number}")["planned"] for number in range(3)]
    assert [plan["config"]["repa"]["depth"] for plan in planned] == [5, 1, 2]
    running = optunas_trials(search)
    assert [trial.params for trial in running] == [FIRST, SECOND, POINT]
    assert {trial.state for trial in running} == {TrialState.RUNNING}

    evaluate(ledger, "candidate-001", 120, 5.0)
    search.on_trial_result("tune-1", {METRIC: 5.0, "training_iteration": 1})
    end(ledger, "candidate-001", STOPPED)
    search.on_trial_complete("tune-1", {METRIC: 5.0})
    first, second, _ = optunas_trials(search)
    assert (second.state, second.value) == (TrialState.PRUNED, 5.0)
    assert second.intermediate_values == {60: 8.0, 120: 5.0}  # what came before the resume is part of the curve
    assert first.state == TrialState.RUNNING


def test_the_study_is_rebuilt_as_it_was(space, ledger):
    search = SweepSearch(space, ledger)
    run(search, ledger, "b0")
    run(search, ledger, "b1")
    run(search, ledger, "t0", values=(9.0, 8.0, 7.0))
    run(search, ledger, "t1", values=(19.0, 18.0), outcome=STOPPED)
    run(search, ledger, "t2", values=(3.0,), outcome=FAILED)
    run(search, ledger, "t3", values=(), outcome=FAILED)
    live = optunas_trials(search)
    rebuilt = optunas_trials(SweepSearch(space, ledger))
    assert [trial.state for trial in live] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert [trial.value for trial in live] == [7.0, 18.0, None, None]
    assert live[1].intermediate_values == {60: 19.0, 120: 18.0}
    for before, after in zip(live, rebuilt, strict=True):
        assert (after.state, after.value, after.params) == (before.state, before.value, before.params)
        assert after.intermediate_values == before.intermediate_values
        assert after.distributions == before.distributions
    assert SweepSearch(space, ledger).study.optuna.best_params == POINT


def test_optuna_is_told_every_evaluation_once_however_late_or_often_tune_reports(space, ledger):
    all_baselines(ledger, space)
    search = SweepSearch(space, ledger)
    search.suggest("t0")
    for step, value in ((60, 9.0), (120, 8.0)):  # both are in the ledger before Tune tells of the first
        evaluate(ledger, "candidate-000", step, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search.on_trial_result("t0", {METRIC: 9.0, "training_iteration": 1})
        search.on_trial_result("t0", {METRIC: 8.0, "training_iteration": 2})
        evaluate(ledger, "candidate-000", 120, 8.0)  # a worker died and was restarted from its checkpoint
        search.on_trial_result("t0", {METRIC: 8.0, "training_iteration": 1})
        evaluate(ledger, "candidate-000", 180, 7.0)  # Tune never tells of this one
        end(ledger, "candidate-000", STOPPED)
        search.on_trial_complete("t0", None)
    (trial,) = optunas_trials(search)
    assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {60: 9.0, 120: 8.0, 180: 7.0})


def test_optuna_is_told_the_value_on_the_most_samples_and_a_stop_on_all(space, ledger):
    all_baselines(ledger, space)
    search = SweepSearch(space, ledger)
    search.suggest("t0")
    evaluate(ledger, "candidate-000", 60, 8.0, nested={32: 9.0, 64: 8.0})
    evaluate(ledger, "candidate-000", 120, 7.0)
    end(ledger, "candidate-000", STOPPED)
    search.on_trial_complete("t0", None)
    for trials in (optunas_trials(search), optunas_trials(SweepSearch(space, ledger))):
        assert (trials[0].value, trials[0].intermediate_values) == (7.0, {60: 8.0, 120: 7.0})


def test_a_trial_without_an_end_in_the_ledger_has_failed_for_optuna(space, ledger):
    all_baselines(ledger, space)
    search = SweepSearch(space, ledger)
    search.suggest("t0")
    search.on_trial_complete("t0", None, error=True)
    assert [trial.state for trial in optunas_trials(search)] == [TrialState.FAIL]


def test_baselines_are_none_of_optunas_business(space, ledger):
    search = SweepSearch(space, ledger)
    run(search, ledger, "b0")
    run(search, ledger, "b1", outcome=FAILED)
    assert search.study.optuna.get_trials(states=[TrialState.RUNNING, TrialState.COMPLETE]) == []


def test_a_resumed_sweep_does_not_repeat_itself(space, ledger):
    """One start of the command per candidate: a fixed seed would suggest the same thing every time."""
    all_baselines(ledger, space)
    space = with_budget(space, candidates=30)  # so many that the first ten are drawn at random
    for number in range(8):
        run(SweepSearch(space, ledger), ledger, f"t{number}", values=(9.0, 8.0 - number))
    weights = [overrides_of(ledger, candidate_name(number))["repa.weight"] for number in range(8)]
    assert len(set(weights)) == 8


def test_what_is_suggested_does_not_depend_on_how_often_the_sweep_was_started(space, tmp_path):
    """A crash between two candidates changes no later one, neither the random ones nor those that Optuna models."""
    space = with_budget(space, candidates=9)
    suggested = []
    for name, starts_anew in (("once", False), ("every time", True)):
        paths = SweepPaths(tmp_path / name)
        paths.create()
        ledger = Ledger(paths)
        search = SweepSearch(space, ledger)
        for number in range(11):
            search = SweepSearch(space, ledger) if starts_anew else search
            outcome = (FINISHED, STOPPED, FAILED)[number % 3]
            run(search, ledger, f"t{number}", values=(9.0, 5.0 + number % 4), outcome=outcome)
        suggested.append([overrides_of(ledger, candidate_name(number)) for number in range(9)])
    assert suggested[0] == suggested[1]
    assert len({overrides["repa.weight"] for overrides in suggested[0]}) == 9


def test_two_sweeps_from_the_same_file_suggest_the_same(space, tmp_path):
    suggested = []
    for name in "ab":
        paths = SweepPaths(tmp_path / name)
        paths.create()
        ledger = Ledger(paths)
        search = SweepSearch(space, ledger)
        for number in range(8):
            run(search, ledger, f"t{number}", values=(9.0, 5.0 + number))
        suggested.append([overrides_of(ledger, candidate_name(number)) for number in range(6)])
    assert suggested[0] == suggested[1]


def test_a_larger_budget_goes_on_where_the_smaller_ended(space, ledger):
    search = SweepSearch(space, ledger)
    while run(search, ledger, f"t{len(ledger.trials())}") is not None:
        pass
    more = with_budget(space, candidates=8)
    assert num_open(more, ledger.records()) == 2
    search = SweepSearch(more, ledger)
    assert run(search, ledger, "x")["trial"] == "candidate-006"
    assert run(search, ledger, "y")["trial"] == "candidate-007"
    assert run(search, ledger, "z") is None
    smaller = with_budget(space, candidates=2)
    assert num_open(smaller, ledger.records()) == 0
    assert SweepSearch(smaller, ledger).suggest("x") == Searcher.FINISHED


def test_a_name_is_never_given_twice(space, ledger):
    all_baselines(ledger, space)
    start(ledger, space, "candidate-003", overrides=FIRST)
    end(ledger, "candidate-003", FINISHED)
    search = SweepSearch(space, ledger)
    assert run(search, ledger, "t0")["trial"] == "candidate-004"


def test_points_that_were_tried_are_not_tried_again(space, ledger):
    all_baselines(ledger, space)
    start(ledger, space, "candidate-000", overrides=POINT)
    end(ledger, "candidate-000", FAILED)
    search = SweepSearch(space, ledger)
    search.suggest("t0")
    assert overrides_of(ledger, "candidate-001") != POINT


def test_a_ledger_of_another_config_is_refused(space, ledger):
    start(ledger, space, "baseline-seed4")
    other = space_of(laptop({"training.batch_size": 16}))
    with pytest.raises(AssertionError, match="another config"):
        SweepSearch(other, ledger).suggest("t0")


def test_every_kind_of_range_reaches_optuna_and_stays_inside(ledger):
    def change(content):
        content["profiles"]["laptop"]["repa"] = None
        content["points"] = []
        content["space"] = {
            "training.learning_rate": {"log_uniform": [1.0e-5, 1.0e-2]},
            "training.weight_decay": {"uniform": [0, 0.1]},
            "training.batch_size": {"int": [8, 64]},
            "training.ema_decay": {"choice": [None, 0.9, 0.99]},
            "training.betas": {"choice": [[0.9, 0.95], [0.9, 0.999]]},
        }

    space = with_budget(space_of(change), candidates=12)
    all_baselines(ledger, space)
    search = SweepSearch(space, ledger)
    for number in range(12):
        run(search, ledger, f"t{number}", values=(9.0 - number,))
        overrides = overrides_of(ledger, candidate_name(number))
        assert all(dimension.holds(overrides[dimension.path]) for dimension in space.dimensions), overrides
    assert len(optunas_trials(SweepSearch(space, ledger))) == 12


def test_the_best_is_the_largest_where_more_is_better(space, ledger):
    from dataclasses import replace

    space = replace(space, objective=replace(space.objective, mode="max"), points=())
    all_baselines(ledger, space)
    search = SweepSearch(space, ledger)
    for number, value in enumerate((1.0, 3.0, 2.0)):
        run(search, ledger, f"t{number}", values=(value,))
    for study in (search.study.optuna, SweepSearch(space, ledger).study.optuna):
        assert study.best_value == 3.0


def test_no_trial_is_begun_that_there_is_no_room_for(space, ledger):
    """A node that joins makes room; what was not begun is not suggested, and not in the ledger."""
    room = 1
    search = SweepSearch(space, ledger, lambda: room)
    assert search.suggest("a")["planned"]["trial"] == "baseline-seed4"
    assert search.suggest("b") is None
    room = 2
    assert search.suggest("b")["planned"]["trial"] == "baseline-seed5"
    assert search.suggest("c") is None
    search.on_trial_complete("a", error=True)
    assert search.suggest("c")["planned"]["role"] == CANDIDATE
    assert len(ledger.records()) == 3
