"""What confirmation has found: each contender over its seeds, against the baseline with the same seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.confirmation import contenders, finished_values, last_values
from sweeps.intervals import Difference, differences
from sweeps.ledger import FAILED, TrialRecord
from sweeps.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """A candidate that was trained again.

    seeds: those it has finished, its first one included. num_failed: of its confirmations. means: metric -> geometric
    mean over its seeds. differences: metric -> against the baseline; where no fresh seed is shared, there is none.
    """

    trial: str
    config: str
    metric: str
    seeds: tuple[int, ...]
    num_failed: int
    means: Mapping[str, float]
    differences: Mapping[str, Difference]

    @property
    def objective(self) -> Difference | None:
        """The objective's difference, where it has an interval."""
        found = self.differences.get(self.metric)
        return found if found is not None and found.low is not None else None


def confirmed(
    space: SearchSpace, records: Sequence[TrialRecord], configs: Mapping[str, str], metrics: Sequence[str]
) -> tuple[Confirmed, ...]:
    """Contenders of which a confirmation has begun, the best mean over all seeds first. configs: in words, by trial."""
    begun = [c for c in contenders(space, records) if any(r.start.confirms == c.trial for r in records)]
    baselines = [record for record in records if record.is_baseline]
    values = {metric: {c.trial: last_values(c, records, metric) for c in begun} for metric in metrics}
    against = {
        metric: differences(finished_values(baselines, metric), values[metric], first_seed=space.first_seed)
        for metric in metrics
    }
    found = [
        Confirmed(
            trial=candidate.trial,
            config=configs[candidate.trial],
            metric=space.objective.metric,
            seeds=tuple(values[space.objective.metric][candidate.trial]),
            num_failed=sum(r.start.confirms == candidate.trial and r.outcome == FAILED for r in records),
            means={
                m: mean_over_seeds(by_trial[candidate.trial])
                for m, by_trial in values.items()
                if by_trial[candidate.trial]
            },
            differences={m: of[candidate.trial] for m, of in against.items() if candidate.trial in of},
        )
        for candidate in begun
    ]
    sign = 1 if space.objective.mode == "min" else -1
    return tuple(sorted(found, key=lambda one: sign * one.means[space.objective.metric]))


def mean_over_seeds(values: Mapping[int, float]) -> float:
    """Geometric; arithmetic where a value has no logarithm."""
    if all(value > 0 for value in values.values()):
        return statistics.geometric_mean(values.values())
    return statistics.fmean(values.values())
