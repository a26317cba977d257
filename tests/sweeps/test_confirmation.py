"""Confirmation: which candidates are trained again and when, who wins then, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ray.tune.search import Searcher

from sweeps.agenda import is_complete, missing_confirmations, num_open
from sweeps.config import load_config
from sweeps.confirmation import Confirm, best_record, contenders
from sweeps.findings import caution
from sweeps.ledger import CONFIRMATION, FAILED, FINISHED, STOPPED, Ledger
from sweeps.report import final_lines
from sweeps.search import SweepSearch
from sweeps.space import Budget
from sweeps.space_file import with_budget
from sweeps.storage import SweepPaths
from tests.sweeps.lab import OBJECTIVE, Lab
from tests.sweeps.space_files import message_of, put, space_of
from tests.sweeps.test_report import assert_whole_and_offline, figures_of, printed
from tests.sweeps.test_search import METRIC, all_baselines, end, evaluate, run, start


@pytest.fixture
def space():
    return replace(space_of(), confirm=Confirm(best=2), points=())


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    paths = SweepPaths(tmp_path / "sweep")
    paths.create()
    return Ledger(paths)


def candidates(ledger, space, *values, outcome=FINISHED):
    for number, value in enumerate(values):
        name = f"candidate-{number:03d}"
        overrides = {"repa.teacher": "dinov2s_saliency", "repa.depth": 1 + number % 5, "repa.weight": 0.1 + number / 10}
        start(ledger, space, name, overrides=overrides, time=10.0 + number)
        evaluate(ledger, name, 240, value)
        end(ledger, name, outcome)


def test_the_best_are_trained_again_once_every_candidate_has_ended(space, ledger) -> None:
    all_baselines(ledger, space)
    candidates(ledger, space, 5.0, 3.0, 4.0, 2.0)
    search = SweepSearch(space, ledger)
    assert num_open(space, ledger.records()) == 2 + 2
    first, second = search.suggest("t4"), search.suggest("t5")
    assert search.suggest("t6") is None, "two candidates are still on their way, and either may be among the best"
    for tune_id, suggestion, value in (("t4", first, 1.0), ("t5", second, 9.0)):
        evaluate(ledger, suggestion["planned"]["trial"], 240, value)
        end(ledger, suggestion["planned"]["trial"], FINISHED)
        search.on_trial_complete(tune_id, {METRIC: value})
    planned = [search.suggest(f"c{number}")["planned"] for number in range(2)]
    assert [plan["trial"] for plan in planned] == ["candidate-004-seed5", "candidate-003-seed5"]
    assert search.suggest("one-more") == Searcher.FINISHED
    record = ledger.record("candidate-003-seed5")
    assert record is not None
    assert (record.start.role, record.start.seed, record.start.confirms) == (CONFIRMATION, 5, "candidate-003")
    own = ledger.record("candidate-003")
    assert own is not None
    config = load_config(planned[1]["config"])
    assert config == space.candidate_config(own.start.overrides, seed=5)
    assert replace(config, seed=4) == space.candidate_config(own.start.overrides)


def test_confirmations_are_none_of_optunas_business_and_no_candidates(space, ledger) -> None:
    all_baselines(ledger, space)
    candidates(ledger, space, *(6.0, 5.0, 4.0, 3.0, 2.0, 1.0))
    search = SweepSearch(space, ledger)
    assert run(search, ledger, "c0", values=(1.0,))["role"] == CONFIRMATION
    assert run(search, ledger, "c1", values=(1.0,))["role"] == CONFIRMATION
    assert run(search, ledger, "c2") is None
    assert is_complete(space, ledger.records())
    assert len(SweepSearch(space, ledger).study.optuna.trials) == 6
    more = with_budget(space, candidates=7)
    assert run(SweepSearch(more, ledger), ledger, "t6")["trial"] == "candidate-006"


def test_a_killed_confirmation_goes_on(space, ledger) -> None:
    all_baselines(ledger, space)
    candidates(ledger, space, *(6.0, 5.0, 4.0, 3.0, 2.0, 1.0))
    SweepSearch(space, ledger).suggest("c0")
    evaluate(ledger, "candidate-005-seed5", 60, 9.0)
    assert num_open(space, ledger.records()) == 2
    search = SweepSearch(space, ledger)
    again = [search.suggest(f"c{number}")["planned"]["trial"] for number in range(2)]
    assert again == ["candidate-005-seed5", "candidate-004-seed5"]
    assert search.suggest("one-more") == Searcher.FINISHED


def test_only_finished_candidates_are_confirmed_and_none_where_it_is_off(space, ledger) -> None:
    all_baselines(ledger, space)
    candidates(ledger, space, 1.0, 2.0, outcome=STOPPED)
    assert missing_confirmations(space, ledger.records()) == []
    overrides = {"repa.teacher": "dinov2s_saliency", "repa.depth": 2, "repa.weight": 1.0}
    start(ledger, space, "candidate-002", overrides=overrides, time=20)
    evaluate(ledger, "candidate-002", 240, 9.0)
    end(ledger, "candidate-002", FINISHED)
    assert [plan.trial for plan in missing_confirmations(space, ledger.records())] == ["candidate-002-seed5"]
    off = replace(space, confirm=Confirm(best=0), budget=Budget(candidates=3, baseline_seeds=2))
    assert missing_confirmations(off, ledger.records()) == []
    assert is_complete(off, ledger.records())


def test_more_baseline_seeds_on_a_finished_sweep_bring_their_confirmations_and_disturb_nothing(space, ledger) -> None:
    space = with_budget(space, candidates=2)
    all_baselines(ledger, space)
    candidates(ledger, space, 5.0, 3.0)
    search = SweepSearch(space, ledger)
    while run(search, ledger, f"t{len(ledger.trials())}", values=(4.0,)) is not None:
        pass
    assert is_complete(space, ledger.records())
    before = {name: ledger.paths.trial_ledger(name).read_bytes() for name in ledger.trials()}
    more = replace(space, budget=Budget(candidates=2, baseline_seeds=3))
    assert more.fingerprint == space.fingerprint
    search, planned = SweepSearch(more, ledger), []
    while (done := run(search, ledger, f"t{len(ledger.trials())}", values=(4.0,))) is not None:
        planned.append(done["trial"])
    assert planned == ["baseline-seed6", "candidate-001-seed6", "candidate-000-seed6"]
    assert {name: ledger.paths.trial_ledger(name).read_bytes() for name in before} == before


def test_who_was_confirmed_stays_in_the_contest_when_the_budget_is_raised(space, ledger) -> None:
    space = replace(with_budget(space, candidates=2), confirm=Confirm(best=1))
    all_baselines(ledger, space)
    candidates(ledger, space, 5.0, 3.0)
    run(SweepSearch(space, ledger), ledger, "c0", values=(3.0,))
    more = with_budget(space, candidates=3)
    search = SweepSearch(more, ledger)
    assert run(search, ledger, "t2", values=(2.0,))["trial"] == "candidate-002"
    assert run(search, ledger, "c1", values=(9.0,))["trial"] == "candidate-002-seed5"
    records = ledger.records()
    assert [record.trial for record in contenders(more, records)] == ["candidate-002", "candidate-001"]
    best = best_record(more, records)
    assert best is not None
    assert best.trial == "candidate-001"


@pytest.mark.parametrize(
    ("confirm", "told"),
    [
        ({"best": -1}, "confirm.best: got -1, allowed is an integer of at least 0"),
        ({"seeds": 1}, "confirm.seeds: got 1, allowed is null or an integer of at least 2"),
        ({"seeds": 3}, "confirm.seeds: got 3, allowed is null or 2 to 2, the number of budget.baseline_seeds"),
        ({"bset": 1}, "confirm.bset: no such setting; allowed is best, seeds; nearest is best"),
    ],
)
def test_what_cannot_be_is_one_line(confirm, told) -> None:
    assert message_of(put("confirm", value=confirm)) == told


# What is said of it.


def confirmed_lab(folder: Path, *fresh: float, first: float = 0.8, seeds: int = 3) -> Lab:
    lab = Lab(folder, candidates=2, seeds=seeds, confirm=1)
    lab.baselines(*(1.0, 1.03, 0.98)[:seeds])
    lab.trial("candidate-000", first)
    lab.trial("candidate-001", 1.4)
    if fresh:
        lab.confirmations("candidate-000", *fresh)
    return lab


def test_before_confirmation_the_answer_is_one_seed_and_no_answer(tmp_path: Path) -> None:
    summary = confirmed_lab(tmp_path).summary()
    assert not summary.complete
    assert summary.answer.startswith(
        "Not answered yet: 2 of 2 candidates have ended, 0 of 2 confirmations have ended; so far, on one seed, cand"
    )
    assert summary.best is not None
    assert caution(summary.best).startswith("Not confirmed: 0 of 2 confirmations have ended.")


def test_a_confirmed_winner_is_told_by_its_fresh_seeds(tmp_path: Path) -> None:
    lab = confirmed_lab(tmp_path, 0.9 * 1.03, 0.91 * 0.98, first=0.87)
    summary = lab.summary()
    assert summary.complete
    assert summary.best is not None
    assert summary.best.confirmed is not None
    assert summary.answer.startswith(
        "Yes: candidate-000 (dinov2s_saliency, depth 1/2, weight 0.422) beats the baseline by 9.5 % in "
        f"{OBJECTIVE} at step 200 (95 % interval "
    )
    assert "2 fresh seeds)" in summary.answer
    text = caution(summary.best)
    assert "best of 2 on one seed (-13.0 %)" in text
    assert "nobody has chosen them: -9.5 %" in text
    assert "The first seed differs from them by -3.9 %" in text
    assert "still have led there by about" in text
    assert "confirmed: mean of 3 seeds, differences on 2 fresh" in " ".join(printed(summary, width=160).split())
    page = lab.page()
    assert_whole_and_offline(page)
    assert "Does the winner hold on other seeds?" in page
    assert len(figures_of(page)) == 2 + 2 + 2 + 1 + 2 + 2 + 2
    assert "confirmed (thin): seeds 1, 2" in page


def test_a_lead_that_fresh_seeds_do_not_repeat_is_inconclusive(tmp_path: Path) -> None:
    lab = confirmed_lab(tmp_path, 1.01 * 1.03, 0.97 * 0.98)
    summary = lab.summary()
    assert summary.best is not None
    assert summary.best.reading.gap is not None
    assert summary.best.reading.gap < -2, "on its first seed it was a clear yes"
    assert summary.answer.startswith("Inconclusive: candidate-000")
    assert "is within the noise" in summary.answer
    assert "Yes" not in "\n".join(final_lines(summary, lab.paths))


def test_a_confirmed_loser_is_a_no(tmp_path: Path) -> None:
    summary = confirmed_lab(tmp_path, 1.3 * 1.03, 1.31 * 0.98, first=1.29).summary()
    assert summary.best is not None
    assert summary.best.trial == "candidate-000"
    assert summary.answer.startswith("No: the best that finished, candidate-000")
    assert "falls short of the baseline by 30.5 %" in summary.answer


def test_two_seeds_are_said_to_be_few(tmp_path: Path) -> None:
    summary = confirmed_lab(tmp_path, 0.82 * 1.03, seeds=2).summary()
    assert summary.best is not None
    assert "known from 1 degree of freedom only" in caution(summary.best)


def test_another_of_the_confirmed_can_win(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=3, seeds=3, confirm=2)
    lab.baselines(1.0, 1.03, 0.98)
    for number, factor in enumerate((0.8, 0.82, 0.9)):
        lab.trial(f"candidate-00{number}", factor)
    lab.confirmations("candidate-000", 0.95 * 1.03, 0.96 * 0.98)
    lab.confirmations("candidate-001", 0.83 * 1.03, 0.82 * 0.98)
    summary = lab.summary()
    assert summary.best is not None
    assert summary.best.trial == "candidate-001"
    assert summary.answer.startswith("Yes: candidate-001")
    assert [trial.name for trial in summary.ranked()] == ["candidate-001", "candidate-000", "candidate-002"]
    best = best_record(lab.space, lab.ledger.records())
    assert best is not None
    assert best.trial == "candidate-001", "and its model is the one that is kept"


def test_a_confirmation_that_failed_is_no_yes(tmp_path: Path) -> None:
    lab = confirmed_lab(tmp_path)
    for seed in (1, 2):
        name = f"candidate-000-seed{seed}"
        lab.trial(
            name, 0.8, role=CONFIRMATION, seed=seed, confirms="candidate-000", until=80, outcome=FAILED, reason="nan"
        )
    summary = lab.summary()
    assert summary.complete
    assert summary.answer.startswith("Inconclusive: on one seed, candidate-000")
    assert "no confirmation has finished" in summary.answer
    assert_whole_and_offline(lab.page())
    lab = confirmed_lab(tmp_path / "one", 0.9 * 1.03)
    lab.trial("candidate-000-seed2", 0.8, role=CONFIRMATION, seed=2, confirms="candidate-000", until=80, outcome=FAILED)
    summary = lab.summary()
    assert summary.best is not None
    assert summary.best.confirmed is not None
    assert summary.best.confirmed.seeds == (0, 1)
    assert "1 confirmation of it failed." in caution(summary.best)
