"""The ledger of a sweep -> Summary: every number that the terminal and the page show, as plain values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prx_model.metrics.table import METRICS
from sweeps.audit import Audited, audit_of
from sweeps.costs import Compute, Costs, working_s
from sweeps.ledger import FAILED, FINISHED, STOPPED, Ledger, Start, TrialRecord, baseline_curves, recorded_verdict
from sweeps.looks import Curve, latest
from sweeps.readings import CONCLUSIVE, BaselinePoint, Estimate, Reading, baseline_points, estimates, reading
from sweeps.rule import StopConfig, Verdict
from sweeps.space import SearchSpace
from sweeps.space_file import FRACTION_OF
from sweeps.wording import answer

UNFINISHED = "unfinished"
OUTCOMES = (FINISHED, UNFINISHED, STOPPED, FAILED)


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """One trial. `curves` and `readings` are by metric; `step` is the last step that is known to have been trained.

    curves: step -> the metric on all samples, estimated where it was measured on fewer.
    saved_s: estimate of what stopping has saved: the trial's own mean seconds per step, start-up left out, times the
    steps not trained.
    repeated_s: seconds of the `num_repeated` evaluations, and the training before each, that a resume has made again.
    num_sampled, num_full: see sweeps.costs.Compute.
    verdicts: by step, as they were given. audit: of a candidate that goes on though the rule would have stopped it.
    """

    name: str
    is_baseline: bool
    seed: int
    config: str
    overrides: Mapping[str, Any]
    step: int
    num_steps: int
    curves: Mapping[str, Mapping[int, Estimate]]
    readings: Mapping[str, Reading]
    outcome: str
    reason: str
    log: str
    costs: Costs
    saved_s: float
    num_repeated: int
    repeated_s: float
    num_sampled: int
    num_full: int
    verdicts: Mapping[int, Verdict]
    audit: Audited | None

    @property
    def spent_s(self) -> float:
        return self.costs.total_s

    @property
    def ended(self) -> bool:
        return self.outcome != UNFINISHED


@dataclass(frozen=True, kw_only=True)
class Best:
    """The finished candidate with the best objective, and how far to trust its lead.

    chosen_from: candidates with at least one evaluation. luck: the lead in spreads that the best of so many would be
    expected to show if none of them differed from the baseline. conclusive: |gap| is at least 2 and no lead of luck.
    """

    trial: str
    config: str
    reading: Reading
    chosen_from: int
    luck: float
    conclusive: bool


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

    @property
    def metric(self) -> str:
        return self.metrics[0]

    @property
    def candidates(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if not trial.is_baseline]

    @property
    def baselines(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if trial.is_baseline]

    @property
    def stopped(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if trial.outcome == STOPPED]

    @property
    def audited(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if trial.audit is not None]

    @property
    def failed(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if trial.outcome == FAILED]

    @property
    def sample_counts(self) -> list[int]:
        """The numbers of samples that values rest on, ascending."""
        curves = [curve for trial in self.trials for curve in trial.curves.values()]
        return sorted({point.num_samples for curve in curves for point in curve.values()})

    def ranked(self) -> list[TrialSummary]:
        """Candidates, finished ones first and the better ones first; then as they started."""
        sign = 1 if self.mode == "min" else -1

        def key(trial: TrialSummary) -> tuple[int, float]:
            reading = trial.readings.get(self.metric)
            value = sign * reading.value if reading is not None and trial.outcome == FINISHED else 0.0
            return OUTCOMES.index(trial.outcome), value

        return sorted(self.candidates, key=key)


def summarise(space: SearchSpace, ledger: Ledger) -> Summary:
    """What the ledger says about the question, at any time: also before the first row, and while trials run."""
    records = ledger.records()
    metrics = _metrics(space, records)
    baselines = {metric: baseline_curves(records, metric) for metric in metrics}
    depth = space.baseline_config(space.first_seed).model.depth
    trials = tuple(_trial(record, space, baselines, depth) for record in records)
    best = _best(space, records, trials)
    complete = _is_complete(space, records)
    candidates = [trial for trial in trials if not trial.is_baseline]
    return Summary(
        question=space.question,
        answer=answer(space.objective.metric, space.budget.candidates, candidates, best, complete=complete),
        complete=complete,
        metrics=metrics,
        mode=space.objective.mode,
        trials=trials,
        baseline={metric: baseline_points(curves) for metric, curves in baselines.items()},
        best=best,
        compute=_compute(trials),
        num_planned=space.budget.candidates,
        num_planned_seeds=space.budget.baseline_seeds,
        stop=space.stop,
    )


def best_record(space: SearchSpace, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The candidate with the best objective at the last step, among those that reached it."""
    metric, sign = space.objective.metric, 1 if space.objective.mode == "min" else -1
    finished = [r for r in records if not r.is_baseline and r.outcome == FINISHED and r.curve(metric)]
    return min(finished, key=lambda r: sign * r.evaluations[-1].metrics[metric], default=None)


def luck_of_best(num_candidates: int, num_seeds: int) -> float:
    """Expected lead in spreads of the best of k candidates that do not differ from the baseline.

    The expected largest of k standard normal values (Blom's approximation), less the part of the gap that all
    candidates share because they are compared with the same mean of `num_seeds` seeds.
    """
    if num_candidates < 2:
        return 0.0
    expected = statistics.NormalDist().inv_cdf((num_candidates - 0.375) / (num_candidates + 0.25))
    return expected / math.sqrt(1 + 1 / num_seeds)


def _metrics(space: SearchSpace, records: Sequence[TrialRecord]) -> tuple[str, ...]:
    """The objective first, then the evaluation's other metrics, then whatever else the ledger holds."""
    configured = space.baseline_config(space.first_seed).evaluation.metrics
    recorded = [name for record in records for row in record.evaluations for name in row.metrics]
    return tuple(dict.fromkeys([space.objective.metric, *(configured if not recorded else ()), *recorded]))


def _trial(
    record: TrialRecord, space: SearchSpace, baselines: Mapping[str, Sequence[Curve]], depth: int
) -> TrialSummary:
    rows, start, end = record.evaluations, record.start, record.end
    once = [*rows, *([end] if end else [])]
    verdicts = {row.step: verdict for row in rows if (verdict := recorded_verdict(row)) is not None}
    num_samples = space.baseline_config(space.first_seed).evaluation.num_samples
    step = max(end.step if end else 0, record.last_step)
    left = start.num_steps - record.last_step
    stopped = record.outcome == STOPPED and rows
    known = {metric: curve for metric in baselines if (curve := record.curve(metric))}
    curves = {metric: estimates(curve, baselines[metric], num_samples) for metric, curve in known.items()}
    # A baseline is not compared with a mean that it is part of.
    compared: Mapping[str, Sequence[Curve]] = dict.fromkeys(known, ()) if record.is_baseline else baselines
    return TrialSummary(
        name=record.trial,
        is_baseline=record.is_baseline,
        seed=start.seed,
        config=short_config(start, depth) if not record.is_baseline else f"baseline, seed {start.seed}",
        overrides=dict(start.overrides),
        step=step,
        num_steps=start.num_steps,
        curves=curves,
        readings={
            metric: reading(curve, curves[metric][max(curve)], compared[metric], _direction(metric, space))
            for metric, curve in known.items()
        },
        outcome=record.outcome or UNFINISHED,
        reason=_reason(record),
        log=end.log if end else "",
        costs=record.costs,
        saved_s=working_s(once) / record.last_step * left if stopped else 0.0,
        num_repeated=record.num_repeated,
        repeated_s=max(0.0, record.spent_s - Costs.of(once).total_s),
        num_sampled=record.num_sampled,
        num_full=num_samples * (len(rows) + record.num_repeated),
        verdicts=verdicts,
        audit=audit_of(record),
    )


def short_config(start: Start, depth: int) -> str:
    """'dinov2s_saliency, depth 3/6, weight 0.42': what was searched, a name standing for itself."""
    parts = []
    for path, value in start.overrides.items():
        name = path.rsplit(".", 1)[-1]
        if isinstance(value, str):
            parts.append(value)
        elif FRACTION_OF.get(path) == "model.depth":
            parts.append(f"{name} {value}/{depth}")
        else:
            parts.append(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)


def _direction(metric: str, space: SearchSpace) -> str | None:
    if metric == space.objective.metric:
        return space.objective.mode
    spec = METRICS.get(metric)
    return spec.direction if spec is not None else None


def _reason(record: TrialRecord) -> str:
    if record.end is not None:
        return record.end.reason
    if not record.evaluations:
        return "no evaluation yet"
    verdict = record.evaluations[-1].verdict
    return str(verdict["reason"]) if verdict else f"at step {record.last_step}"


def _best(space: SearchSpace, records: Sequence[TrialRecord], trials: Sequence[TrialSummary]) -> Best | None:
    record = best_record(space, records)
    if record is None:
        return None
    trial = next(trial for trial in trials if trial.name == record.trial)
    reading = trial.readings[space.objective.metric]
    baselines = baseline_curves(records, space.objective.metric)
    seeds = sum(latest(curve[reading.step]) > 0 for curve in baselines if reading.step in curve)
    chosen_from = sum(not other.is_baseline and bool(other.curves) for other in trials)
    luck = luck_of_best(chosen_from, max(1, seeds))
    gap = reading.gap
    conclusive = gap is not None and (gap >= CONCLUSIVE or -gap >= max(CONCLUSIVE, luck))
    return Best(
        trial=trial.name,
        config=trial.config,
        reading=reading,
        chosen_from=chosen_from,
        luck=luck,
        conclusive=conclusive,
    )


def _is_complete(space: SearchSpace, records: Sequence[TrialRecord]) -> bool:
    candidates = [record for record in records if not record.is_baseline]
    seeds = {record.start.seed for record in records if record.is_baseline}
    enough = len(candidates) >= space.budget.candidates and seeds >= set(space.baseline_seeds)
    return enough and all(record.end is not None for record in records)


def _compute(trials: Sequence[TrialSummary]) -> Compute:
    return Compute(
        costs=Costs.of(trial.costs for trial in trials),
        saved_s=sum(trial.saved_s for trial in trials),
        num_stopped=sum(trial.outcome == STOPPED for trial in trials),
        num_repeated=sum(trial.num_repeated for trial in trials),
        repeated_s=sum(trial.repeated_s for trial in trials),
        num_sampled=sum(trial.num_sampled for trial in trials),
        num_full=sum(trial.num_full for trial in trials),
    )
