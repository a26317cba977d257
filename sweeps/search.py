"""Which trial comes next: what is unfinished, then baseline seeds, what Optuna suggests, and confirmations.

Rebuilt from the ledger at every start of a sweep.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.search import Searcher

from sweeps.agenda import Planned, again, candidate_name, missing_baselines, missing_confirmations, unfinished
from sweeps.config import deciding, fingerprint, to_plain
from sweeps.ledger import BASELINE, CANDIDATE, CONFIRMATION, Ledger, Start, TrialRecord
from sweeps.space import SearchSpace
from sweeps.study import Study
from sweeps.titles import title
from sweeps.usage import Usage, limits, usage_of, used_up
from sweeps.warm_start import read_earlier

BUDGET_LOOK_S = 5.0


def is_used_up(space: SearchSpace, ledger: Ledger) -> bool:
    """Whether a limit of the budget is reached; a budget without limits does not read the ledger."""
    return bool(limits(space.budget, Usage()) and used_up(space.budget, usage_of(ledger.records())))


def _next_number(candidates: Sequence[TrialRecord]) -> int:
    """One above the highest: a name is never given twice, whatever is missing from the ledger."""
    return max((int(record.trial.rpartition("-")[2]) for record in candidates), default=-1) + 1


class SweepSearch(Searcher):
    """Tune's searcher: a queue of known trials in front of Optuna's study (sweeps.study), which holds the candidates.

    Confirmations come last, when every candidate has ended: only then is it known which are the best.
    """

    def __init__(self, space: SearchSpace, ledger: Ledger, room: Callable[[], int] | None = None) -> None:
        """room: trials that there is room for now; Tune itself knows only how many may ever run side by side."""
        super().__init__(metric=space.objective.metric, mode=space.objective.mode)
        self.space, self.ledger = space, ledger
        records = ledger.records()
        candidates = [record for record in records if record.is_candidate]
        self.num_candidates, self.next_number = len(candidates), _next_number(candidates)
        self.queue = deque(again(r) for r in unfinished(records) if r.is_baseline)
        self.queue.extend(missing_baselines(space, records))
        self.queue.extend(again(record) for record in unfinished(candidates))
        self.queue.extend(again(r) for r in unfinished(records) if r.start.role == CONFIRMATION)
        self.room = room
        self.depth = space.baseline_config(space.first_seed).model.depth  # of the model
        self.begun = {record.trial for record in records}  # before this start of the sweep: they are let finish
        self.used_up, self.looked = False, -math.inf
        self.running: set[str] = set()  # Tune's trial ids of all trials that have not ended
        self.live: set[str] = set()  # Tune's trial ids of candidates that have not ended
        self.names: dict[str, Planned] = {}  # Tune's trial id -> the trial
        self.study = Study(space, candidates, read_earlier(space, ledger.paths).records)

    def suggest(self, trial_id: str) -> Any:
        """The next trial's settings for Tune; None while there may be one later; or Searcher.FINISHED."""
        if self.room is not None and len(self.running) >= self.room():
            return None
        if self._budget_is_used_up():
            self.queue = deque(planned for planned in self.queue if planned.trial in self.begun)
            if not self.queue:
                return Searcher.FINISHED
        planned = self._next_known() if self.queue else self._next_candidate()
        if planned is None and self.live and self.space.confirm.best:
            return None
        planned = planned or self._next_confirmation()
        if planned is None:
            return Searcher.FINISHED
        self.names[trial_id] = planned
        self.running.add(trial_id)
        if planned.role == CANDIDATE:
            self.live.add(trial_id)
        self._record_start(planned)
        shown = title(self.space.name, planned, self.depth)
        named = {"trial": planned.trial, "role": planned.role, "title": shown}
        return {"planned": {**named, "config": self._config(planned)}}

    def _budget_is_used_up(self) -> bool:
        """By the ledger, and for good; it is not read again with every turn of Tune's loop."""
        if not self.used_up and time.monotonic() - self.looked > BUDGET_LOOK_S:
            self.used_up = is_used_up(self.space, self.ledger)
            self.looked = time.monotonic()
        return self.used_up

    def _next_known(self) -> Planned:
        planned = self.queue.popleft()
        if planned.role == CANDIDATE:
            # Optuna's queue began with the same candidates in the same order, so it hands out this one's own settings.
            taken = self.study.suggest(planned.trial, self.next_number)
            assert taken == dict(planned.overrides), (planned.trial, taken)
        return planned

    def _next_candidate(self) -> Planned | None:
        if self.num_candidates >= self.space.budget.candidates:
            return None
        name = candidate_name(self.next_number)
        overrides = self.study.suggest(name, self.next_number)
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
        if (record := self._record(trial_id)) is not None:
            self.study.report(record)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.running.discard(trial_id)
        self.looked = -math.inf
        self.live.discard(trial_id)
        if self._is_candidate(trial_id):
            self.on_trial_result(trial_id, {})
            self.study.tell(self.names[trial_id].trial, self._record(trial_id))

    def _record(self, trial_id: str) -> TrialRecord | None:
        """What the ledger has of a candidate: Tune's own numbers restart after a resume, and may be late."""
        return self.ledger.record(self.names[trial_id].trial) if self._is_candidate(trial_id) else None

    def _is_candidate(self, trial_id: str) -> bool:
        return trial_id in self.names and self.names[trial_id].role == CANDIDATE

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""
