"""What a running sweep shows Prometheus, through Ray: where trials stand as gauges, what has happened as counters.

All of it is read from the ledger, which stays the truth: this is for watching. Ray's agent on the driver's node exposes
it under the names below with `ray_` in front. The agent forgets a gauge twenty seconds after it was last set, so
all of them are set anew at every look at the ledger, and a trial that has ended is set for a minute more, in which its
last values are scraped; then its series end. Counters begin with the command, for which Prometheus' rate() and
increase() make allowance; totals of a whole sweep are gauges.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.confirmation import best_record
from sweeps.ledger import (
    FAILED,
    FINISHED,
    LARGEST_GAP,
    LOSS,
    NOTICE,
    STOPPED,
    EvaluationRow,
    TrialRecord,
    baseline_curves,
)
from sweeps.readings import baseline_points
from sweeps.space import SearchSpace
from sweeps.titles import config_in_words
from sweeps.trial_summary import saved_by_stopping
from sweeps.usage import HOUR_S, usage_of

RUNNING = "running"
LINGER_S = 60.0  # how long an ended trial is still shown: several times Prometheus' usual interval


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One gauge or counter: its labels, beside `sweep`, which all have, and what it means.

    trial: as in the ledger; config: its settings in short; metric: its own name, so that FID is what is called `fid`.
    """

    labels: tuple[str, ...] = ()
    meaning: str


TRIAL = ("trial", "config")
GAUGES = {
    "sweep_trial_metric": Shown(labels=(*TRIAL, "metric"), meaning="A metric at the trial's last evaluation"),
    "sweep_trial_samples": Shown(labels=TRIAL, meaning="Samples that the trial's metrics rest on"),
    "sweep_trial_gap": Shown(
        labels=TRIAL, meaning="The objective's gap to the baseline in spreads, by the last verdict; above 0 is worse"
    ),
    "sweep_trial_flow_loss": Shown(labels=TRIAL, meaning="Flow-matching loss"),
    "sweep_trial_repa_loss": Shown(labels=TRIAL, meaning="Alignment loss, of trials with REPA"),
    "sweep_trial_images_per_second": Shown(labels=TRIAL, meaning="Images trained on in a second"),
    "sweep_trial_progress": Shown(labels=TRIAL, meaning="Share of the trial's steps that is done"),
    "sweep_trials": Shown(labels=("state",), meaning="Trials: planned, running, finished, stopped, failed"),
    "sweep_best": Shown(labels=(*TRIAL, "metric"), meaning="Metrics of the best finished candidate, at its end"),
    "sweep_baseline": Shown(labels=("metric",), meaning="The baseline's mean, at the last step that it has reached"),
    "sweep_gpu_hours": Shown(meaning="GPU-hours that the sweep's trials have used"),
    "sweep_cpu_hours": Shown(meaning="CPU-hours that the sweep's trials have used"),
    "sweep_saved_gpu_hours": Shown(meaning="GPU-hours that stopping has saved (estimate)"),
    "sweep_saved_cpu_hours": Shown(meaning="CPU-hours that stopping has saved (estimate)"),
    "sweep_interruptions": Shown(
        labels=("cause",), meaning="Times that a trial lost its workers (loss), or was saved and moved in time (notice)"
    ),
    "sweep_cost_dollars": Shown(meaning="What trials have cost on nodes that have a price"),
}
COUNTERS = {  # Prometheus knows them with `_total` at the end
    "sweep_evaluations": Shown(meaning="Evaluations of trials"),
    "sweep_decisions": Shown(labels=("decision",), meaning="Verdicts on candidates: stop, go_on, not_judged, audited"),
}

Sample = tuple[str, dict[str, str], float]  # name, labels beside `sweep`, value


class Gauges:
    """Those of one sweep, for as long as the command runs. sweep: the name of its folder. planned: trials in all."""

    def __init__(self, space: SearchSpace, sweep: str, planned: int) -> None:
        from ray.util import metrics

        self.space, self.sweep, self.planned = space, sweep, planned
        self.depth = space.baseline_config(space.first_seed).model.depth
        self.gauges = {name: metrics.Gauge(name, it.meaning, ("sweep", *it.labels)) for name, it in GAUGES.items()}
        self.counters = {
            name: metrics.Counter(name, it.meaning, ("sweep", *it.labels)) for name, it in COUNTERS.items()
        }
        self.ended: dict[str, float] | None = None  # trials that have ended: when that was seen

    def show(self, records: Sequence[TrialRecord], step: Callable[[TrialRecord], int]) -> None:
        """Set every gauge there is something to say of. step: that a trial has come to."""
        samples = [sample for record in self.current(records) for sample in of_trial(record, step(record), self.depth)]
        for name, labels, value in [*samples, *of_sweep(self.space, records, self.planned, self.depth)]:
            self.gauges[name].set(value, {"sweep": self.sweep, **labels})

    def count(self, row: EvaluationRow) -> None:
        """An evaluation that was not in the ledger before."""
        self.counters["sweep_evaluations"].inc(1, {"sweep": self.sweep})
        if row.verdict is not None:
            self.counters["sweep_decisions"].inc(1, {"sweep": self.sweep, "decision": decision(row.verdict)})

    def current(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Those that run, and those that have ended in the last minute, but not before the command was given."""
        now, first = time.monotonic(), self.ended is None
        self.ended = self.ended or {}
        for record in records:
            if record.end is not None:
                self.ended.setdefault(record.trial, -math.inf if first else now)
        return [record for record in records if now - self.ended.get(record.trial, now) < LINGER_S]


def of_trial(record: TrialRecord, step: int, depth: int) -> Iterator[Sample]:
    """A trial at its last evaluation. step: that it has come to. depth: of the model."""
    own = _named(record, depth)
    yield "sweep_trial_progress", own, step / record.start.num_steps
    if not record.evaluations:
        return
    row = record.evaluations[-1]
    for metric, value in row.metrics.items():
        yield "sweep_trial_metric", {**own, "metric": metric}, value
    yield "sweep_trial_samples", own, row.num_samples
    yield "sweep_trial_flow_loss", own, row.flow_loss
    if row.repa_loss is not None:
        yield "sweep_trial_repa_loss", own, row.repa_loss
    yield "sweep_trial_images_per_second", own, row.images_per_s
    gap = row.verdict.get("gap") if row.verdict is not None else None
    if gap is not None and abs(gap) < LARGEST_GAP:
        yield "sweep_trial_gap", own, gap


def of_sweep(space: SearchSpace, records: Sequence[TrialRecord], planned: int, depth: int) -> Iterator[Sample]:
    """The whole sweep, what other starts of the command have done included. planned: trials in all."""
    yield "sweep_trials", {"state": "planned"}, planned
    states = Counter(record.outcome or RUNNING for record in records)
    for state in (RUNNING, FINISHED, STOPPED, FAILED):
        yield "sweep_trials", {"state": state}, states[state]
    causes = Counter(one.cause for record in records for one in record.interruptions)
    for cause in (LOSS, NOTICE):
        yield "sweep_interruptions", {"cause": cause}, causes[cause]
    best = best_record(space, records)
    if best is not None:
        for metric, value in best.evaluations[-1].metrics.items():
            yield "sweep_best", {**_named(best, depth), "metric": metric}, value
    baselines = [row for record in records if record.is_baseline for row in record.evaluations]
    for metric in dict.fromkeys(name for row in baselines for name in row.metrics):
        for point in baseline_points(baseline_curves(records, metric))[-1:]:
            yield "sweep_baseline", {"metric": metric}, point.mean
    yield from _hours(records)


def _hours(records: Sequence[TrialRecord]) -> Iterator[Sample]:
    """What the sweep's own trials have used, and what stopping has saved of it, at what each trial held."""
    usage = usage_of(records)
    yield "sweep_gpu_hours", {}, usage.gpu_s / HOUR_S
    yield "sweep_cpu_hours", {}, usage.cpu_s / HOUR_S
    yield "sweep_cost_dollars", {}, usage.usd
    saved = saved_by_stopping(records)
    yield "sweep_saved_gpu_hours", {}, saved.gpu_s / HOUR_S
    yield "sweep_saved_cpu_hours", {}, saved.cpu_s / HOUR_S


def decision(verdict: Mapping[str, Any]) -> str:
    """What a verdict, as the ledger has it, has decided. audited: a stop that is not made (sweeps.audit)."""
    if verdict["stop"]:
        return "stop"
    if verdict.get("audited"):
        return "audited"
    return "not_judged" if verdict.get("judged_step") is None else "go_on"


def _named(record: TrialRecord, depth: int) -> dict[str, str]:
    return {"trial": record.trial, "config": config_in_words(record.start, depth)}
