"""Which trial comes next: what is unfinished, then baseline seeds, what Optuna suggests, and confirmations.

Rebuilt from the ledger at every start of a sweep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ray.air.constants import TRAINING_ITERATION
from ray.tune.search import Searcher

from sweeps.agenda import Planned, again, candidate_name, missing_baselines, missing_confirmations, unfinished
from sweeps.config import deciding, fingerprint, to_plain
from sweeps.ledger import BASELINE, CANDIDATE, CONFIRMATION, FAILED, FINISHED, STOPPED, Ledger, Start, TrialRecord
from sweeps.space import Dimension, SearchSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from ray.tune.search.optuna import OptunaSearch


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


def _next_number(candidates: Sequence[TrialRecord]) -> int:
    """One above the highest: a name is never given twice, whatever is missing from the ledger."""
    return max((int(record.trial.rpartition("-")[2]) for record in candidates), default=-1) + 1


class SweepSearch(Searcher):
    """Tune's searcher: a queue of known trials in front of Ray's OptunaSearch.

    Confirmations come last, when every candidate has ended: only then is it known which are the best.

    Optuna's study holds the candidates only, and is rebuilt from the ledger: finished ones as complete, stopped ones as
    pruned with their intermediate values, failed ones as failed. Unfinished candidates are enqueued, so that Optuna
    knows of them; points to try first come after them.
    """

    def __init__(self, space: SearchSpace, ledger: Ledger) -> None:
        super().__init__(metric=space.objective.metric, mode=space.objective.mode)
        self.space, self.ledger = space, ledger
        records = ledger.records()
        candidates = [record for record in records if record.is_candidate]
        self.num_candidates, self.next_number = len(candidates), _next_number(candidates)
        self.queue = deque(again(r) for r in unfinished(records) if r.is_baseline)
        self.queue.extend(missing_baselines(space, records))
        self.queue.extend(again(record) for record in unfinished(candidates))
        self.queue.extend(again(r) for r in unfinished(records) if r.start.role == CONFIRMATION)
        self.live: set[str] = set()  # Tune's trial ids of candidates that have not ended
        self.names: dict[str, Planned] = {}  # Tune's trial id -> the trial
        self.num_told: dict[str, int] = {}  # Tune's trial id -> evaluations that Optuna knows of
        self.optuna = self._study(candidates)

    def _study(self, candidates: Sequence[TrialRecord]) -> OptunaSearch:
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        tried = [dict(record.start.overrides) for record in candidates]
        points = [dict(point) for point in self.space.points if dict(point) not in tried]
        pending = [dict(record.start.overrides) for record in unfinished(candidates)]
        search = OptunaSearch(
            distributions(self.space.dimensions),
            metric=self.space.objective.metric,
            mode=self.space.objective.mode,
            points_to_evaluate=[*pending, *points] or None,
            sampler=optuna.samplers.TPESampler(
                # A third of a small budget is random; Optuna's own ten would be all of it.
                n_startup_trials=max(2, min(10, self.space.budget.candidates // 3)),
                multivariate=True,
                constant_liar=True,
                seed=self._sampler_seed(len(candidates)),
            ),
        )
        for record in candidates:
            if record.end is not None:
                self._tell_past(search, record)
        return search

    def _sampler_seed(self, num_candidates: int) -> int:
        """A seed repeats its suggestions, so a resumed sweep must not begin with the same one again."""
        return int(fingerprint({"sweep": self.space.fingerprint, "candidates": num_candidates})[:8], 16)

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
        """The next trial's settings for Tune; None while there may be one later; or Searcher.FINISHED."""
        planned = self._next_known(trial_id) if self.queue else self._next_candidate(trial_id)
        if planned is None and self.live and self.space.confirm.best:
            return None
        planned = planned or self._next_confirmation()
        if planned is None:
            return Searcher.FINISHED
        self.names[trial_id] = planned
        if planned.role == CANDIDATE:
            self.live.add(trial_id)
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

    def _next_confirmation(self) -> Planned | None:
        missing = missing_confirmations(self.space, self.ledger.records())
        return missing[0] if missing else None

    def _config(self, planned: Planned) -> dict[str, Any]:
        if planned.role == BASELINE:
            return to_plain(self.space.baseline_config(planned.seed))
        return to_plain(self.space.candidate_config(planned.overrides, planned.seed))

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
                confirms=planned.confirms,
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
        self.live.discard(trial_id)
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
