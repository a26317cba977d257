"""One trial of the ledger -> TrialSummary: what the terminal and the page show of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prx_model.metrics.table import METRICS
from sweeps.audit import Audited, audit_of
from sweeps.costs import Costs, working_s
from sweeps.ledger import (
    BASELINE,
    CANDIDATE,
    FAILED,
    FINISHED,
    STOPPED,
    Interruption,
    TrialRecord,
    recorded_verdict,
)
from sweeps.looks import Curve
from sweeps.readings import Estimate, Reading, estimates, reading
from sweeps.rule import Verdict
from sweeps.space import SearchSpace
from sweeps.titles import config_in_words
from sweeps.usage import HOUR_S, Usage

UNFINISHED = "unfinished"
OUTCOMES = (FINISHED, UNFINISHED, STOPPED, FAILED)


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """One trial. `curves` and `readings` are by metric; `step` is the last step that is known to have been trained.

    curves: step -> the metric on all samples, estimated where it was measured on fewer.
    saved_s: see the function of that name.
    repeated_s: seconds of the `num_repeated` evaluations, and the training before each, that a resume has made again.
    num_sampled, num_full: see sweeps.costs.Compute.
    verdicts: by step, as they were given. audit: of a candidate that goes on though the rule would have stopped it.
    reused_from: the sweep that has trained this baseline and paid for it: here it has cost nothing.
    images_per_s: trained on, the median over its evaluations; None before the first.
    """

    name: str
    role: str
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
    confirms: str = ""
    reused_from: str = ""
    usage: Usage = field(default_factory=Usage)
    interruptions: tuple[Interruption, ...] = ()
    images_per_s: float | None = None
    by_hand: bool = False  # stopped by a person, and not by the rule

    @property
    def is_baseline(self) -> bool:
        return self.role == BASELINE

    @property
    def is_candidate(self) -> bool:
        return self.role == CANDIDATE

    @property
    def spent_s(self) -> float:
        return self.costs.total_s

    @property
    def stopped_by_rule(self) -> bool:
        return self.outcome == STOPPED and not self.by_hand

    @property
    def ended(self) -> bool:
        return self.outcome != UNFINISHED


def summarise_trial(
    record: TrialRecord, space: SearchSpace, baselines: Mapping[str, Sequence[Curve]], depth: int
) -> TrialSummary:
    """`baselines`: metric -> the baseline's curves. `depth`: of the model."""
    rows, start, end = record.evaluations, record.start, record.end
    once = [*rows, *([end] if end else [])]
    verdicts = {row.step: verdict for row in rows if (verdict := recorded_verdict(row)) is not None}
    num_samples, reused = space.baseline_config(space.first_seed).evaluation.num_samples, bool(start.reused_from)
    step = max(end.step if end else 0, record.last_step)
    known = {metric: curve for metric in baselines if (curve := record.curve(metric))}
    curves = {metric: estimates(curve, baselines[metric], num_samples) for metric, curve in known.items()}
    # A baseline is not compared with a mean that it is part of.
    compared: Mapping[str, Sequence[Curve]] = dict.fromkeys(known, ()) if record.is_baseline else baselines
    return TrialSummary(
        name=record.trial,
        role=start.role,
        seed=start.seed,
        config=config_in_words(start, depth),
        overrides=dict(start.overrides),
        step=step,
        num_steps=start.num_steps,
        curves=curves,
        readings={
            metric: reading(curve, curves[metric][max(curve)], compared[metric], direction(metric, space))
            for metric, curve in known.items()
        },
        outcome=record.outcome or UNFINISHED,
        reason=_reason(record),
        log=end.log if end else "",
        costs=Costs() if reused else record.costs,
        saved_s=saved_s(record),
        num_repeated=0 if reused else record.num_repeated,
        repeated_s=0.0 if reused else max(0.0, record.spent_s - Costs.of(once).total_s),
        num_sampled=0 if reused else record.num_sampled,
        num_full=0 if reused else num_samples * (len(rows) + record.num_repeated),
        verdicts=verdicts,
        audit=audit_of(record),
        reused_from=start.reused_from,
        confirms=start.confirms,
        usage=Usage() if reused else record.usage,
        interruptions=() if reused else record.interruptions,
        images_per_s=statistics.median(row.images_per_s for row in rows) if rows else None,
        by_hand=record.stopped_by_hand,
    )


def saved_s(record: TrialRecord) -> float:
    """Estimate of what stopping has saved: the trial's own mean seconds per step, start-up left out, times the steps
    not trained; 0 of a trial that was not stopped by the rule.
    """
    if not record.stopped_by_rule or not record.evaluations:
        return 0.0
    once = [*record.evaluations, *([record.end] if record.end else [])]
    return working_s(once) / record.last_step * (record.start.num_steps - record.last_step)


def saved_by_stopping(records: Sequence[TrialRecord]) -> Usage:
    """What stopped trials would have used to their ends, at what each held; an estimate."""
    total = Usage()
    for record in records:
        seconds = saved_s(record)
        if seconds and (row := record.evaluations[-1]).cpus is not None:
            usd = (row.usd_per_hour or 0.0) * seconds / HOUR_S
            total += Usage(cpu_s=row.cpus * seconds, gpu_s=(row.gpus or 0.0) * seconds, usd=usd)
    return total


def direction(metric: str, space: SearchSpace) -> str | None:
    """'min' or 'max': which way is better; None where that is unknown."""
    if metric == space.objective.metric:
        return space.objective.mode
    spec = METRICS.get(metric)
    return spec.direction if spec is not None else None


def _reason(record: TrialRecord) -> str:
    if record.start.reused_from:
        return f"reused from {record.start.reused_from}"
    if record.end is not None:
        return record.end.reason
    if not record.evaluations:
        return "no evaluation yet"
    verdict = record.evaluations[-1].verdict
    return str(verdict["reason"]) if verdict else f"at step {record.last_step}"
