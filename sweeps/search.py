"""Which trial comes next: what is unfinished, then baseline seeds, then what Optuna suggests.

Rebuilt from the ledger at every start of a sweep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.air.constants import TRAINING_ITERATION
from ray.tune.search import Searcher

from sweeps.config import deciding, fingerprint, to_plain
from sweeps.ledger import BASELINE, CANDIDATE, FAILED, FINISHED, STOPPED, Ledger, Start, TrialRecord
from sweeps.space import Dimension, SearchSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from ray.tune.search.optuna import OptunaSearch


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A trial that is known before Optuna is asked."""

    trial: str
    role: str
    seed: int
    overrides: Mapping[str, Any]


def distributions(dimensions: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def of(dimension: Dimension) -> BaseDistribution:
        if dimension.kind == "choice":
            return CategoricalDistribution(dimension.values)
        if dimension.kind == "int":
            return IntDistribution(int(dimension.low), int(dimension.high))
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)

    return {dimension.path: of(dimension) for dimension in dimensions}


def baseline_name(seed: int) -> str:
    return f"baseline-seed{seed}"


def candidate_name(number: int) -> str:
    return f"candidate-{number:03d}"


def _next_number(candidates: Sequence[TrialRecord]) -> int:
    """One above the highest: a name is never given twice, whatever is missing from the ledger."""
    return max((int(record.trial.rpartition("-")[2]) for record in candidates), default=-1) + 1


def unfinished(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.end is None]


def missing_baselines(space: SearchSpace, records: Sequence[TrialRecord]) -> list[Planned]:
    started = {record.trial for record in records}
    return [
        Planned(trial=baseline_name(seed), role=BASELINE, seed=seed, overrides=dict(space.baseline))
        for seed in space.baseline_seeds
        if baseline_name(seed) not in started
    ]


def num_open(space: SearchSpace, records: Sequence[TrialRecord]) -> int:
    """Trials still to run, of this budget."""
    candidates = [record for record in records if not record.is_baseline]
    to_suggest = max(0, space.budget.candidates - len(candidates))
    return len(unfinished(records)) + len(missing_baselines(space, records)) + to_suggest


class SweepSearch(Searcher):
    """Tune's searcher: a queue of known trials in front of Ray's OptunaSearch.

    Optuna's study holds the candidates only, and is rebuilt from the ledger: finished ones as complete, stopped ones as
    pruned with their intermediate values, failed ones as failed. Unfinished candidates are enqueued, so that Optuna
    knows of them; points to try first come after them.
    """

    def __init__(self, space: SearchSpace, ledger: Ledger) -> None:
        super().__init__(metric=space.objective.metric, mode=space.objective.mode)
        self.space, self.ledger = space, ledger
        records = ledger.records()
        candidates = [record for record in records if not record.is_baseline]
        self.num_candidates, self.next_number = len(candidates), _next_number(candidates)
        self.queue = deque(_again(r) for r in unfinished(records) if r.is_baseline)
        self.queue.extend(missing_baselines(space, records))
        self.queue.extend(_again(record) for record in unfinished(candidates))
        self.names: dict[str, Planned] = {}  # Tune's trial id -> the trial
        self.num_told: dict[str, int] = {}  # Tune's trial id -> evaluations that Optuna knows of
        self.optuna = self._study(candidates)

    def _study(self, candidates: Sequence[TrialRecord]) -> OptunaSearch:
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        from sweeps.sampler import SeededByNumber

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        tried = [dict(record.start.overrides) for record in candidates]
        points = [dict(point) for point in self.space.points if dict(point) not in tried]
        pending = [dict(record.start.overrides) for record in unfinished(candidates)]
        search = OptunaSearch(
            distributions(self.space.dimensions),
            metric=self.space.objective.metric,
            mode=self.space.objective.mode,
            points_to_evaluate=[*pending, *points] or None,
            sampler=SeededByNumber(self._sampler, self._sampler_seed),
        )
        for record in candidates:
            if record.end is not None:
                self._tell_past(search, record)
        return search

    def _sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import TPESampler

        # A third of a small budget is random; Optuna's own ten would be all of it.
        startup = max(2, min(10, self.space.budget.candidates // 3))
        return TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)

    def _sampler_seed(self, number: int) -> int:
        """Of a trial of the study: the same after a crash, and another one for every trial."""
        return int(fingerprint({"sweep": self.space.fingerprint, "candidates": number})[:8], 16)

    def _tell_past(self, search: OptunaSearch, record: TrialRecord) -> None:
        values = list(record.values(self.space.objective.metric).values())
        failed = record.outcome == FAILED or not values
        search.add_evaluated_point(
            dict(record.start.overrides),
            values[-1] if values else 0.0,
            error=failed,
            pruned=record.outcome == STOPPED,
            intermediate_values=values,
        )

    def suggest(self, trial_id: str) -> Any:
        """The next trial's settings for Tune, or Searcher.FINISHED."""
        planned = self._next_known(trial_id) if self.queue else self._next_candidate(trial_id)
        if planned is None:
            return Searcher.FINISHED
        self.names[trial_id] = planned
        self._record_start(planned)
        return {"planned": {"trial": planned.trial, "role": planned.role, "config": self._config(planned)}}

    def _next_known(self, trial_id: str) -> Planned:
        planned = self.queue.popleft()
        if planned.role == CANDIDATE:
            # Optuna's queue began with the same candidates in the same order, so it hands out this one's own settings.
            taken = self.optuna.suggest(trial_id)
            assert taken == dict(planned.overrides), (planned.trial, taken)
        return planned

    def _next_candidate(self, trial_id: str) -> Planned | None:
        if self.num_candidates >= self.space.budget.candidates:
            return None
        overrides = self.optuna.suggest(trial_id)
        assert isinstance(overrides, dict), overrides
        name = candidate_name(self.next_number)
        self.num_candidates, self.next_number = self.num_candidates + 1, self.next_number + 1
        return Planned(trial=name, role=CANDIDATE, seed=self.space.first_seed, overrides=overrides)

    def _config(self, planned: Planned) -> dict[str, Any]:
        if planned.role == BASELINE:
            return to_plain(self.space.baseline_config(planned.seed))
        return to_plain(self.space.candidate_config(planned.overrides))

    def _record_start(self, planned: Planned) -> None:
        """The row that makes the trial known, unless an earlier start of the sweep has written it."""
        config = self._config(planned)
        record, own = self.ledger.record(planned.trial), fingerprint(deciding(config))
        if record is not None:
            assert record.start.fingerprint == own, f"{planned.trial}: the ledger has another config"
            return
        self.ledger.append(
            Start(
                trial=planned.trial,
                role=planned.role,
                seed=planned.seed,
                overrides=planned.overrides,
                fingerprint=own,
                num_steps=config["training"]["steps"],
            )
        )

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._tell_evaluations(trial_id)

    def _tell_evaluations(self, trial_id: str) -> TrialRecord | None:
        """Tell Optuna what the ledger has on a candidate and Optuna has not. Returns the record."""
        if not self._is_candidate(trial_id):
            return None
        record = self.ledger.record(self.names[trial_id].trial)
        values = list(record.values(self.space.objective.metric).values()) if record else []
        # Tune's own iteration restarts at 1 after a resume; the position in the curve does not.
        for position in range(self.num_told.get(trial_id, 0), len(values)):
            self.optuna.on_trial_result(trial_id, {self.metric: values[position], TRAINING_ITERATION: position})
        self.num_told[trial_id] = len(values)
        return record

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not self._is_candidate(trial_id):
            return
        record = self._tell_evaluations(trial_id)
        outcome = record.outcome if record else None
        if record is not None and outcome == FINISHED:
            values = record.values(self.space.objective.metric)
            self.optuna.on_trial_complete(trial_id, {self.metric: values[record.last_step]})
        else:
            # Without a value Optuna takes a stopped trial as pruned, at the last value that was reported.
            self.optuna.on_trial_complete(trial_id, None, error=outcome != STOPPED)

    def _is_candidate(self, trial_id: str) -> bool:
        return trial_id in self.names and self.names[trial_id].role == CANDIDATE

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""


def _again(record: TrialRecord) -> Planned:
    start = record.start
    return Planned(trial=start.trial, role=start.role, seed=start.seed, overrides=start.overrides)
