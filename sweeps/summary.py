"""The ledger of a sweep -> Summary: every number that the terminal and the page show, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sweeps.agenda import is_complete
from sweeps.best import Best, best_of
from sweeps.confirmed import Confirmed, confirmed
from sweeps.costs import Compute, Costs
from sweeps.findings import answer
from sweeps.ledger import FAILED, FINISHED, Interruption, Ledger, TrialRecord, baseline_curves
from sweeps.readings import BaselinePoint, baseline_points
from sweeps.rule import StopConfig
from sweeps.scoreboard import Scoreboard, scoreboard
from sweeps.space import SearchSpace
from sweeps.trial_summary import OUTCOMES, UNFINISHED, TrialSummary, summarise_trial
from sweeps.usage import Usage, usage_of, used_up

__all__ = ["UNFINISHED", "Summary", "TrialSummary", "summarise", "summary_of"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A sweep as it stands. `metrics` opens with the objective; `trials` are in the order of their start."""

    question: str
    answer: str
    complete: bool
    metrics: tuple[str, ...]
    mode: str
    trials: tuple[TrialSummary, ...]
    baseline: Mapping[str, tuple[BaselinePoint, ...]]
    best: Best | None
    compute: Compute
    num_planned: int  # candidates of the budget
    num_planned_seeds: int
    stop: StopConfig
    confirmed: tuple[Confirmed, ...] = ()  # candidates that were trained again, the best first
    scoreboard: Scoreboard = field(default_factory=Scoreboard)
    records: tuple[TrialRecord, ...] = field(default=(), repr=False)  # what it was made of
    used_up: str = ""  # which limit of the budget, and what to do; '' while none is

    @property
    def metric(self) -> str:
        return self.metrics[0]

    @property
    def candidates(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if trial.is_candidate]

    @property
    def baselines(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if trial.is_baseline]

    @property
    def confirmations(self) -> list[TrialSummary]:
        """Runs of candidates with fresh seeds."""
        return [trial for trial in self.trials if trial.confirms]

    @property
    def stopped(self) -> list[TrialSummary]:
        """By the rule."""
        return [trial for trial in self.trials if trial.stopped_by_rule]

    @property
    def stopped_by_hand(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if trial.by_hand]

    @property
    def audited(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if trial.audit is not None]

    @property
    def failed(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if trial.outcome == FAILED]

    @property
    def interruptions(self) -> list[Interruption]:
        return [interruption for trial in self.trials for interruption in trial.interruptions]

    @property
    def sample_counts(self) -> list[int]:
        """The numbers of samples that values rest on, ascending."""
        curves = [curve for trial in self.trials for curve in trial.curves.values()]
        return sorted({point.num_samples for curve in curves for point in curve.values()})

    def ranked(self) -> list[TrialSummary]:
        """Candidates, confirmed ones first, then finished ones, and the better ones first; then as they started."""
        sign = 1 if self.mode == "min" else -1
        tested = [one.trial for one in self.confirmed if one.objective is not None]

        def key(trial: TrialSummary) -> tuple[int, float]:
            if trial.name in tested:
                return -1, tested.index(trial.name)
            reading = trial.readings.get(self.metric)
            value = sign * reading.value if reading is not None and trial.outcome == FINISHED else 0.0
            return OUTCOMES.index(trial.outcome), value

        return sorted(self.candidates, key=key)

    def in_order(self) -> list[TrialSummary]:
        """Every trial: candidates as they rank, their confirmations, the baseline."""
        return [*self.ranked(), *self.confirmations, *self.baselines]


def summarise(space: SearchSpace, ledger: Ledger) -> Summary:
    """What the ledger says about the question, at any time: also before the first row, and while trials run."""
    return summary_of(space, ledger.records())


def summary_of(space: SearchSpace, records: Sequence[TrialRecord]) -> Summary:
    """The same of records that are read already, in the order of their start."""
    metrics = _metrics(space, records)
    baselines = {metric: baseline_curves(records, metric) for metric in metrics}
    depth = space.baseline_config(space.first_seed).model.depth
    trials = tuple(summarise_trial(record, space, baselines, depth) for record in records)
    tested = confirmed(space, records, {trial.name: trial.config for trial in trials}, metrics)
    best = best_of(space, records, trials, tested)
    complete = is_complete(space, records)
    candidates = [trial for trial in trials if trial.is_candidate]
    points = {metric: baseline_points(curves) for metric, curves in baselines.items()}
    board = scoreboard(space, candidates, tested, points)
    flag = board.flag(best.trial) if best else ""
    return Summary(
        question=space.question,
        answer=answer(space, candidates, best, complete=complete, flag=flag),
        complete=complete,
        metrics=metrics,
        mode=space.objective.mode,
        trials=trials,
        baseline=points,
        best=best,
        compute=_compute(trials),
        num_planned=space.budget.candidates,
        num_planned_seeds=space.budget.baseline_seeds,
        stop=space.stop,
        confirmed=tested,
        scoreboard=board,
        records=tuple(records),
        used_up="" if complete else used_up(space.budget, usage_of(records)),
    )


def _metrics(space: SearchSpace, records: Sequence[TrialRecord]) -> tuple[str, ...]:
    """The objective first, then the evaluation's other metrics, then whatever else the ledger holds."""
    configured = space.baseline_config(space.first_seed).evaluation.metrics
    recorded = [name for record in records for row in record.evaluations for name in row.metrics]
    return tuple(dict.fromkeys([space.objective.metric, *(configured if not recorded else ()), *recorded]))


def _compute(trials: Sequence[TrialSummary]) -> Compute:
    return Compute(
        costs=Costs.of(trial.costs for trial in trials),
        saved_s=sum(trial.saved_s for trial in trials),
        num_stopped=sum(trial.stopped_by_rule for trial in trials),
        num_repeated=sum(trial.num_repeated for trial in trials),
        repeated_s=sum(trial.repeated_s for trial in trials),
        num_sampled=sum(trial.num_sampled for trial in trials),
        num_full=sum(trial.num_full for trial in trials),
        usage=sum((trial.usage for trial in trials), Usage()),
    )
