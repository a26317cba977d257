"""Several sweeps side by side: whether their baseline is the same trial, what differs, and all candidates against it.

Sweeps compare where the baseline, with equal seeds, is the same trial in all of them, and where they have measured the
first one's objective. Their baseline seeds are then one baseline, against which every candidate is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sweeps.config import deciding, fingerprint, to_plain
from sweeps.confirmation import contenders, finished_values, last_values
from sweeps.intervals import Difference, differences
from sweeps.ledger import FAILED, FINISHED, Ledger, TrialRecord, baseline_curves
from sweeps.locations import Location
from sweeps.provenance import read_starts
from sweeps.readings import BaselinePoint, baseline_points
from sweeps.recorded import RecordedError, space_of, sweep_of
from sweeps.reuse import decides
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.summary import Summary, summary_of
from sweeps.trial_summary import TrialSummary, summarise_trial

MISSING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One of the compared, as its folder tells of it. name: of its folder, whole where two have one name."""

    name: str
    paths: SweepPaths
    space: SearchSpace
    records: tuple[TrialRecord, ...]
    summary: Summary

    @property
    def baseline(self) -> str:
        """Fingerprint of its baseline with seed 0: those of other seeds differ by nothing else."""
        return fingerprint(deciding(to_plain(self.space.baseline_config(0))))

    @property
    def made_with(self) -> Mapping[str, Any]:
        """By its last start."""
        starts = read_starts(self.paths.starts)
        return decides(starts[-1]) if starts else {}


def read_sweeps(folders: Sequence[Location]) -> list[Sweep]:
    """Raises ValueError, in one line, for a folder that is none of a sweep's."""
    sweeps, roots = [], [sweep_of(folder) for folder in folders]
    for paths in roots:
        if roots.count(paths) > 1:
            raise RecordedError(f"got {paths.root} twice, allowed is every sweep once")
        namesakes = [other for other in roots if other.root.name == paths.root.name]
        space, records = space_of(paths), tuple(Ledger(paths).records())
        sweeps.append(
            Sweep(
                name=paths.root.name if len(namesakes) == 1 else str(paths.root),
                paths=paths,
                space=space,
                records=records,
                summary=summary_of(space, records),
            )
        )
    return sweeps


@dataclass(frozen=True)
class Comparison:
    """The first sweep's objective is everybody's."""

    sweeps: Sequence[Sweep]

    @property
    def first(self) -> Sweep:
        return self.sweeps[0]

    @property
    def metric(self) -> str:
        return self.first.space.objective.metric

    @property
    def mode(self) -> str:
        return self.first.space.objective.mode

    @cached_property
    def obstacles(self) -> list[str]:
        """Why they do not compare: one line for each setting in which a baseline is another trial; [] where they do."""
        lines = []
        for sweep in self.sweeps[1:]:
            if sweep.baseline != self.first.baseline:
                here, there = (flat(deciding(to_plain(s.space.baseline_config(0)))) for s in (self.first, sweep))
                lines += [f"baseline, {line}" for line in differing(here, there, self.first.name, sweep.name)]
            elif seeds := _recorded_otherwise(self.first, sweep):
                both = f"{self.first.name} and {sweep.name}"
                lines.append(f"baseline, seed {seeds[0]}: by the ledgers of {both} not the same trial (other versions)")
            if not any(self.metric in row.metrics for record in sweep.records for row in record.evaluations):
                lines.append(f"{self.metric} is the objective of {self.first.name}; {sweep.name} has not measured it")
        return lines

    @cached_property
    def differences(self) -> list[str]:
        """In what else: what was searched, how it was judged, and what it was made with."""
        lines = []
        for sweep in self.sweeps[1:]:
            here, there = (_asked(s.space) for s in (self.first, sweep))
            lines += differing(here, there, self.first.name, sweep.name)
            lines += differing(self.first.made_with, sweep.made_with, self.first.name, sweep.name)
        return lines

    @cached_property
    def baselines(self) -> list[TrialRecord]:
        """Of all sweeps, each seed once: one that was reused, or trained twice alike, is no second measurement."""
        by_seed: dict[int, TrialRecord] = {}
        for sweep in self.sweeps:
            for record in sweep.records:
                if record.is_baseline and record.outcome != FAILED:
                    known = by_seed.get(record.start.seed)
                    if known is None or record.last_step > known.last_step:
                        by_seed[record.start.seed] = record
        return [by_seed[seed] for seed in sorted(by_seed)]

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """That all have measured, the objective first."""
        known = [set(sweep.summary.metrics) for sweep in self.sweeps]
        return tuple(m for m in self.first.summary.metrics if all(m in of for of in known))

    @cached_property
    def points(self) -> dict[str, tuple[BaselinePoint, ...]]:
        return {metric: baseline_points(baseline_curves(self.baselines, metric)) for metric in self.metrics}

    @cached_property
    def candidates(self) -> list[tuple[Sweep, TrialSummary]]:
        """Of all sweeps, read against the common baseline: finished ones first, and the better ones first."""
        found = [(sweep, trial) for sweep in self.sweeps for trial in self._read(sweep)]
        sign = 1 if self.mode == "min" else -1

        def key(item: tuple[Sweep, TrialSummary]) -> tuple[bool, float]:
            reading = item[1].readings.get(self.metric)
            if item[1].outcome != FINISHED or reading is None:
                return True, 0.0
            return False, sign * reading.value

        return sorted(found, key=key)

    def best_of(self, sweep: Sweep) -> TrialSummary | None:
        """The first of a sweep's finished candidates."""
        own = (trial for of, trial in self.candidates if of is sweep and trial.outcome == FINISHED)
        return next(own, None)

    @cached_property
    def on_fresh_seeds(self) -> dict[tuple[str, str], Difference]:
        """(sweep, candidate) -> its difference to the common baseline on the seeds that have not chosen it.

        Of all sweeps that choose by the first one's seed, and of the candidates that these have begun to confirm.
        """
        first_seed, values = self.first.space.first_seed, {}
        for sweep in self.sweeps:
            if sweep.space.first_seed == first_seed:
                for record in contenders(sweep.space, sweep.records):
                    values[sweep.name, record.trial] = last_values(record, sweep.records, self.metric)
        several = {key: of for key, of in values.items() if len(of) > 1}
        return differences(finished_values(self.baselines, self.metric), several, first_seed=first_seed)

    @property
    def confirmed(self) -> tuple[Sweep, TrialSummary, Difference] | None:
        """The best on fresh seeds, of those with an interval; None where there is none."""
        sign, found = 1 if self.mode == "min" else -1, self.on_fresh_seeds
        known = [(s, t, found[s.name, t.name]) for s, t in self.candidates if (s.name, t.name) in found]
        known = [one for one in known if one[2].low is not None]
        return min(known, key=lambda one: sign * one[2].percent, default=None)

    def _read(self, sweep: Sweep) -> Iterator[TrialSummary]:
        curves = {metric: baseline_curves(self.baselines, metric) for metric in self.metrics}
        depth = sweep.space.baseline_config(sweep.space.first_seed).model.depth
        for record in sweep.records:
            if record.is_candidate:
                yield summarise_trial(record, sweep.space, curves, depth)


def _recorded_otherwise(one: Sweep, other: Sweep) -> list[int]:
    """Seeds whose baseline the two ledgers know as two trials."""
    here, there = ({r.start.seed: r.start.fingerprint for r in s.records if r.is_baseline} for s in (one, other))
    return [seed for seed in here if there.get(seed, here[seed]) != here[seed]]


def flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value."""
    found: dict[str, Any] = {}
    for name, value in plain.items():
        path = f"{prefix}{name}"
        found |= flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return found


def differing(here: Mapping[str, Any], there: Mapping[str, Any], first: str, other: str) -> list[str]:
    """'training.steps: 200 in A, 400 in B'."""
    names = list(dict.fromkeys([*here, *there]))
    pairs = [(name, here.get(name, MISSING), there.get(name, MISSING)) for name in names]
    return [f"{name}: {a} in {first}, {b} in {other}" for name, a, b in pairs if a != b]


def _asked(space: SearchSpace) -> dict[str, Any]:
    """What a sweep has asked, beside its baseline."""
    return {
        "question": space.question or MISSING,
        "objective": f"{space.objective.metric} ({space.objective.mode})",
        **{f"space.{dimension.path}": str(dimension) for dimension in space.dimensions},
        **{f"stop.{name}": value for name, value in to_plain(space.stop).items()},
        "candidates": space.budget.candidates,
    }
