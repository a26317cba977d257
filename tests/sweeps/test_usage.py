"""What trials have used, by the ledger's rows; and a budget that ends a sweep in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ray.tune.search import Searcher

from sweeps.cluster_preflight import unmeasured
from sweeps.ledger import FINISHED, End, Ledger
from sweeps.node_types import NodeType, Offer, held_on
from sweeps.plan import budget_lines, costs_line
from sweeps.progress import standing_line
from sweeps.report import final_lines
from sweeps.search import SweepSearch, is_used_up
from sweeps.space import Budget, Resources
from sweeps.standing import Observer
from sweeps.usage import Rate, Usage, rate_on, usage_of, used_up
from tests.sweeps.lab import STEPS, Lab
from tests.sweeps.space_files import message_of, put

EIGHT = NodeType(name="gpu8", most=2, resources={"CPU": 192, "GPU": 8}, usd_per_hour=55.0)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, candidates=4)


def held(lab: Lab, name: str, steps: int, **rate: float | None) -> None:
    """A trial's rows of 12 s each under another rate than rows that do not tell."""
    for step in STEPS[:steps]:
        lab.row(name, step, 1.0, **rate)


def test_a_trial_pays_for_its_share_of_a_node() -> None:
    assert held_on(EIGHT, Resources(workers=8, cpus_per_worker=8, gpus_per_worker=1)).usd_per_hour == 55.0
    assert held_on(EIGHT, Resources(workers=2, cpus_per_worker=8, gpus_per_worker=0.5)).usd_per_hour == 55.0 / 8
    cpu_only = held_on(replace(EIGHT, resources={"CPU": 16}), Resources(workers=2, cpus_per_worker=4))
    assert cpu_only == Rate(cpus=8, gpus=0, usd_per_hour=27.5)
    assert rate_on({}, None, cpus=2, gpus=1, workers=3) == Rate(cpus=6, gpus=3)


def test_rows_are_added_up_by_what_each_was_made_with(lab: Lab) -> None:
    """Also after a move to other machines, repeated work included; what a row does not tell counts nothing."""
    lab.trial("candidate-000", 1.0, until=0, outcome=None)
    lab.row("candidate-000", STEPS[0], 1.0)
    lab.row("candidate-000", STEPS[1], 1.0, cpus=8.0, gpus=2.0, usd_per_hour=30.0)
    lab.row("candidate-000", STEPS[1], 1.0, cpus=8.0, gpus=2.0, usd_per_hour=30.0)
    lab.row("candidate-000", STEPS[2], 1.0, cpus=4.0, gpus=1.0)
    lab.ledger.append(End(trial="candidate-000", outcome=FINISHED, step=120, reason="", log="", checkpoint_s=6.0))
    usage = usage_of(lab.ledger.records())
    assert usage == Usage(cpu_s=2 * 96 + 72, gpu_s=2 * 24 + 18, usd=pytest.approx(0.2), unpriced_s=18)
    assert str(usage) == "0.0183 GPU-hours, $0.20 and what nodes without a price cost"


def test_a_reused_baseline_has_cost_nothing_here(lab: Lab) -> None:
    lab.trial("baseline-seed0", 1.0, role="baseline", until=0, outcome=None, reused_from="another")
    held(lab, "baseline-seed0", 3, cpus=1.0, gpus=1.0)
    assert usage_of(lab.ledger.records()) == Usage()


def test_without_a_gpu_it_is_cpu_hours_and_of_old_ledgers_nothing_is_said(lab: Lab) -> None:
    lab.trial("candidate-000", 1.0)
    assert ":" not in final_lines(lab.summary(), lab.paths)[2].removeprefix("compute: ")
    lab.trial("candidate-001", 1.0, until=0, outcome=None)
    held(lab, "candidate-001", 5, cpus=60.0, gpus=0.0)
    told = "2 min, summed over trials: 1 CPU-hours"
    assert any(told in line for line in final_lines(lab.summary(), lab.paths))
    assert "1 CPU-hours" in lab.page()


def test_a_budget_ends_the_sweep_in_order_and_more_of_it_goes_on(lab: Lab) -> None:
    """What runs is let finish, what had begun before too; nothing else is started."""
    lab.trial("baseline-seed0", 1.0, role="baseline", overrides={"repa": None})
    lab.trial("baseline-seed1", 1.0, role="baseline", seed=1, overrides={"repa": None}, until=0, outcome=None)
    held(lab, "baseline-seed1", 2, cpus=8.0, gpus=100.0, usd_per_hour=60.0)
    known = lab.ledger.record("baseline-seed1")
    assert known is not None
    lab.space = replace(lab.space, budget=replace(lab.space.budget, max_cost=0.39))
    assert is_used_up(lab.space, lab.ledger)
    # A fresh start of the command: the ledger knows what was spent.
    told = "budget.max_cost is used up: 0.4 of 0.39 dollars; no trial is started any more; raise it and give the same"
    assert told in used_up(lab.space.budget, usage_of(lab.ledger.records()))
    assert any(told in line for line in final_lines(lab.summary(), lab.paths))
    assert "Budget.max_cost is used up" in lab.page()
    assert any(told in line for line in budget_lines(lab.space, lab.ledger.records()))
    observer = Observer(space=lab.space, paths=lab.paths, planned=6)
    observer.look()
    assert "budget.max_cost is used up; 0.667 GPU-hours, $0.40 used" in standing_line(observer.standing())

    more = replace(lab.space, budget=replace(lab.space.budget, max_cost=0.41))
    assert not is_used_up(more, lab.ledger)
    assert used_up(more.budget, usage_of(lab.ledger.records())) == ""
    assert replace(more).fingerprint == lab.space.fingerprint, "it is the same sweep"


def _search(tmp_path: Path, budget: Budget) -> tuple[SweepSearch, Lab]:
    lab = Lab(tmp_path, candidates=2)
    lab.space = replace(lab.space, budget=budget)
    return SweepSearch(lab.space, lab.ledger), lab


def test_the_search_starts_nothing_once_the_budget_is_used_up(tmp_path: Path) -> None:
    search, lab = _search(tmp_path, Budget(candidates=2, baseline_seeds=2, max_cpu_hours=0.01))
    first = search.suggest("a")["planned"]["trial"]
    assert first == "baseline-seed0"
    lab.row(first, STEPS[0], 1.0, cpus=2.0, gpus=0.0)  # 24 CPU-seconds of 36
    search.looked = float("-inf")
    assert search.suggest("b")["planned"]["trial"] == "baseline-seed1"
    lab.row(first, STEPS[1], 1.0, cpus=2.0, gpus=0.0)
    search.on_trial_complete("a")
    assert search.suggest("c") == Searcher.FINISHED
    # The other one is under way: a start after a crash lets it finish, and only it.
    search, records = SweepSearch(lab.space, lab.ledger), Ledger(lab.paths).records()
    assert [record.trial for record in records if record.end is None] == ["baseline-seed0", "baseline-seed1"]
    assert search.suggest("a")["planned"]["trial"] == "baseline-seed0"
    assert search.suggest("b")["planned"]["trial"] == "baseline-seed1"
    assert search.suggest("c") == Searcher.FINISHED


def test_a_limit_that_could_never_be_reached_is_refused(lab: Lab) -> None:
    def said(offer: NodeType, **budget: float) -> str | None:
        space = replace(lab.space, budget=replace(lab.space.budget, **budget))
        return unmeasured(space, Offer(types=(offer,)))

    without = NodeType(name="2 CPUs", most=1, resources={"CPU": 2})
    assert "trials take no GPU here; limit budget.max_cpu_hours" in str(said(without, max_gpu_hours=1.0))
    assert "what a node costs (2 CPUs); give the node type the label usd-per-hour" in str(said(without, max_cost=1.0))
    assert said(EIGHT, max_gpu_hours=1.0, max_cost=1.0) is None
    assert said(without, max_cpu_hours=1.0) is None
    told = message_of(put("budget", "max_cost", value=0))
    assert told == "budget.max_cost: got 0, allowed is a number above 0, or null for no limit"


def test_the_plan_tells_hours_and_dollars(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"gpu8": {"resources": {"CPU": 192, "GPU": 8}, "max_workers": 2, "labels": {"usd-per-hour": "55"}}}
    monkeypatch.setattr("sweeps.plan.autoscaler_config", lambda: {"available_node_types": config})
    space = replace(lab.space, resources=Resources(workers=4, cpus_per_worker=8, gpus_per_worker=1))
    assert costs_line(space, None, 6) == "an hour of a trial is 4 GPU-hours, or $27.50 on gpu8"
    monkeypatch.setattr("sweeps.plan.autoscaler_config", dict)
    assert "no price" in costs_line(space, None, 6)
    assert costs_line(lab.space, 600.0, 6) == "an hour of a trial is 1 CPU-hours; about 1 CPU-hours for 6 trials"
