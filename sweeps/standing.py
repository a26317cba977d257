"""Where a sweep stands, read from its ledger and heartbeats alone: for the live view, `status` and machines.

A look costs what has changed since the look before, so that a sweep of a thousand trials can be watched.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sweeps.confirmation import best_record
from sweeps.costs import working_s
from sweeps.following import Following
from sweeps.heartbeats import Heartbeats
from sweeps.ledger import FINISHED, TrialRecord, baseline_curves
from sweeps.looks import Curve
from sweeps.readings import BaselinePoint, Reading, baseline_points, estimates, reading
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.titles import bare_config, config_in_words
from sweeps.trial_summary import OUTCOMES, saved_by_stopping
from sweeps.usage import Usage, usage_of, used_up

LONGEST_WORD = 7  # of a setting's value, where there is little room
LEAST_DONE = 0.2  # trials' worth of work, from which on a pace is worth telling


@dataclass(frozen=True, kw_only=True)
class TrialStanding:
    """One trial. brief: its config for a narrow column. outcome: '' while it runs.

    reading: the objective at its last evaluation; None before the first.
    """

    trial: str
    config: str
    brief: str
    step: int
    num_steps: int
    outcome: str
    reason: str
    reading: Reading | None
    images_per_s: float | None
    left_s: float | None  # None: it has ended, or nobody knows yet


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A sweep at a moment.

    running: those that have not ended, in the order of their start; resting: nobody runs them, the same command goes on
    with them. ended: the best first, as the page ranks them. states: number of ended trials by outcome.
    baseline: its last point on all samples, None before there is one; seeds_finished of seeds.
    used, saved: by trials, and by stopping (an estimate). cpus, gpus: that running trials hold, as far as their rows
    tell. gone_s: since the command was given; left_s: to the end at the pace since then, None where nobody knows.
    used_up: which limit of the budget is reached; '' while none is.
    """

    sweep: str
    metric: str
    planned: int
    running: tuple[TrialStanding, ...]
    ended: tuple[TrialStanding, ...]
    states: Mapping[str, int]
    seeds: int
    seeds_finished: int
    baseline: BaselinePoint | None
    best: TrialStanding | None
    used: Usage
    saved: Usage
    cpus: float
    gpus: float
    gone_s: float | None
    left_s: float | None
    used_up: str
    resting: bool = False


@dataclass
class Observer:
    """Looks at a sweep again and again. planned: trials of the whole sweep. since: when the command was given, by the
    clock that writes the ledger; None where nobody runs it. resting: it is known that nobody does.
    """

    space: SearchSpace
    paths: SweepPaths
    planned: int
    since: float | None = field(default_factory=time.time)
    resting: bool = False
    depth: int = field(init=False)  # of the model
    num_samples: int = field(init=False)  # of a whole evaluation
    _following: Following = field(init=False)
    _heartbeats: Heartbeats = field(init=False)
    _readings: dict[str, tuple[TrialRecord, int, Reading | None]] = field(default_factory=dict)
    _baselines: Sequence[Curve] = ()
    _version: int = 0  # of the baselines

    def __post_init__(self) -> None:
        self._following, self._heartbeats = Following(self.paths), Heartbeats(self.paths)
        config = self.space.baseline_config(self.space.first_seed)
        self.depth, self.num_samples = config.model.depth, config.evaluation.num_samples

    @property
    def records(self) -> Sequence[TrialRecord]:
        """As the last look has found them."""
        return self._following.records

    @property
    def baselines(self) -> Sequence[Curve]:
        """The objective's curves of the baseline."""
        return self._baselines

    def look(self) -> list[TrialRecord]:
        """Read what is new; the trials that have new rows."""
        changed = self._following.look()
        if any(record.is_baseline for record in changed):
            self._version += 1
            self._baselines = baseline_curves(self.records, self.space.objective.metric)
        return changed

    def step(self, record: TrialRecord) -> int:
        """That a trial has come to, by its heartbeat while it runs."""
        if record.end is not None:
            return max(record.end.step, record.last_step)
        return max(record.last_step, self._heartbeats.step(record.trial))

    def config(self, record: TrialRecord) -> str:
        """What it is, in short."""
        return config_in_words(record.start, self.depth)

    def _brief(self, record: TrialRecord) -> str:
        return bare_config(record.start, self.depth, LONGEST_WORD)

    def reading(self, record: TrialRecord) -> Reading | None:
        """The objective at the last evaluation; made anew only where the trial or the baseline has new rows."""
        known = self._readings.get(record.trial)
        version = 0 if record.is_baseline else self._version
        if known is None or known[0] is not record or known[1] != version:
            known = self._readings[record.trial] = record, version, self.reading_at(record, record.last_step)
        return known[2]

    def reading_at(self, record: TrialRecord, step: int) -> Reading | None:
        """The same at an evaluation that may not be the last."""
        curve = record.curve(self.space.objective.metric)
        return self._read(record, {at: scores for at, scores in curve.items() if at <= step})

    def _read(self, record: TrialRecord, curve: Curve) -> Reading | None:
        if not curve:
            return None
        # A baseline is not compared with a mean that it is part of.
        compared = () if record.is_baseline else self._baselines
        last = estimates({max(curve): curve[max(curve)]}, self._baselines, self.num_samples)[max(curve)]
        return reading(curve, last, compared, self.space.objective.mode)

    def standing(self) -> Standing:
        """By the last look."""
        records = self.records
        running = [record for record in records if record.end is None]
        holding = [record.evaluations[-1] for record in running if record.evaluations and not self.resting]
        seeds = [record for record in records if record.is_baseline]
        points, best = baseline_points(self._baselines), best_record(self.space, records)
        used = usage_of(records)
        return Standing(
            sweep=self.paths.root.name,
            metric=self.space.objective.metric,
            planned=self.planned,
            running=tuple(map(self.trial, running)),
            ended=tuple(sorted((self.trial(r) for r in records if r.end is not None), key=self._rank)),
            states=Counter(record.outcome for record in records if record.outcome),
            seeds=max(self.space.budget.baseline_seeds, len(seeds)),
            seeds_finished=sum(record.outcome == FINISHED for record in seeds),
            baseline=points[-1] if points else None,
            best=None if best is None else self.trial(best),
            used=used,
            saved=saved_by_stopping(records),
            cpus=sum(row.cpus or 0.0 for row in holding),
            gpus=sum(row.gpus or 0.0 for row in holding),
            gone_s=None if self.since is None else max(0.0, time.time() - self.since),
            left_s=self._left_s(),
            used_up=used_up(self.space.budget, used),
            resting=self.resting,
        )

    def trial(self, record: TrialRecord) -> TrialStanding:
        """One trial as it stands."""
        step = self.step(record)
        return TrialStanding(
            trial=record.trial,
            config=self.config(record),
            brief=self._brief(record),
            step=step,
            num_steps=record.start.num_steps,
            outcome=record.outcome or "",
            reason=record.end.reason if record.end is not None else "",
            reading=self.reading(record),
            images_per_s=record.evaluations[-1].images_per_s if record.evaluations else None,
            left_s=None if self.resting else trial_left_s(record, step),
        )

    def _rank(self, trial: TrialStanding) -> tuple[int, float]:
        sign = 1 if self.space.objective.mode == "min" else -1
        return OUTCOMES.index(trial.outcome), sign * trial.reading.value if trial.reading is not None else 0.0

    def _left_s(self) -> float | None:
        if self.since is None:
            return None
        done = sum(1.0 if r.end is not None else self.step(r) / r.start.num_steps for r in self.records)
        since_start = done - sum(done_by(record, self.since) for record in self.records)
        if since_start < LEAST_DONE:
            return None
        return max(0.0, (time.time() - self.since) / since_start * (self.planned - done))


def done_by(record: TrialRecord, moment: float) -> float:
    """The part of a trial that was done at a time, by its rows; an ended one is whole, however early it ended."""
    if record.start.reused_from or (record.end is not None and record.end.time <= moment):
        return 1.0
    steps = [row.step for row in record.evaluations if row.time <= moment]
    return max(steps, default=0) / record.start.num_steps


def trial_left_s(record: TrialRecord, step: int) -> float | None:
    """What a trial still takes to its end at the pace of its evaluations so far."""
    if record.end is not None or not record.evaluations:
        return None
    return working_s(record.evaluations) / record.last_step * (record.start.num_steps - step)
