"""A metric that is known on nested numbers of samples: what the baseline's seeds say of each, and of all from a few.

The samples of an evaluation are one ordered list, and a look is the metric on its first n. Values on different n are
never compared: a metric on fewer samples is noisier, and Frechet distances are also larger. N is the largest n of
the baseline, which is always measured on all of them. The logarithm makes noise relative, because a metric's noise
scales with its size ("The FID Lottery", arXiv 2606.20536).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Scores = Mapping[int, float]  # number of samples -> metric value, at one step
Curve = Mapping[int, Scores]  # step -> scores

FLOOR = 0.01  # relative; 1 to 2 % is what FID moves between training seeds
FLOOR_BELOW_SEEDS = 3
MIN_SEEDS = 2
CONFIDENCE = 0.9  # that the error of a prediction is no larger than it is taken for
ROUNDING = 1e-9  # relative; anything smaller is arithmetic, not training


def latest(scores: Scores) -> float:
    """The value on the most samples."""
    return scores[max(scores)]


def most_samples(curves: Iterable[Curve]) -> int:
    """The largest number of samples in any of the curves; 0 without a value."""
    return max((n for curve in curves for scores in curve.values() for n in scores), default=0)


def on_samples(curve: Curve, num_samples: int) -> dict[int, float]:
    """Step -> value on exactly so many samples, in order of step."""
    return {step: curve[step][num_samples] for step in sorted(curve) if num_samples in curve[step]}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The relative standard deviation between seeds on all N samples, as it is used and as it was found.

    value: the unit of a gap. estimate: what the seeds say, below `value` where a floor holds. freedom: of the estimate,
    in degrees: what a chi-square of so many would say as surely.
    """

    value: float
    estimate: float
    freedom: float

    def corrected(self, margin: float) -> float:
        """The gap that equal candidates exceed as rarely as a normal deviate exceeds `margin`.

        Of a gap whose unit is estimated, that is Student's t quantile; of a unit that the floor gives, `margin` itself,
        which is also the least that it is.
        """
        from scipy.special import ndtr, stdtrit

        quantile = -float(stdtrit(self.freedom, ndtr(-margin)))
        return max(margin, quantile * self.estimate / self.value)


def measured_spread(baselines: Sequence[Curve]) -> Spread | None:
    """The spread between seeds on all N samples, pooled over steps; None while fewer than two seeds share a step.

    Pooled, so that two seeds which happen to agree at one step do not pretend to a spread of zero; below three seeds it
    is at least FLOOR. A seed that is lucky at one step is so at the next: the degrees of freedom, sum of (seeds - 1)
    over steps, are worth (1 - r^2) / (1 + r^2) of what they were if steps were independent, r being the correlation of
    a seed's deviations at neighbouring steps; and never less than those of the step with the most seeds.
    """
    steps = list(_deviations(baselines).values())
    worth = [len(deviations) - 1 for deviations in steps]
    if not sum(worth):
        return None
    estimate = math.sqrt(sum(d * d for deviations in steps for d in deviations.values()) / sum(worth))
    # Equal curves would make every other curve infinitely worse: the floor then holds for any number of seeds.
    floored = max(worth) + 1 < FLOOR_BELOW_SEEDS or estimate < ROUNDING
    r = _correlation_of_neighbours(steps)
    freedom = max(sum(worth) * (1 - r * r) / (1 + r * r), max(worth))
    return Spread(value=max(estimate, FLOOR) if floored else estimate, estimate=estimate, freedom=freedom)


def pooled_spread(baselines: Sequence[Curve]) -> float | None:
    """The unit of a gap, before its division by the number of seeds; None while fewer than two seeds share a step."""
    spread = measured_spread(baselines)
    return spread.value if spread else None


def prediction_errors(baselines: Sequence[Curve]) -> dict[int, float]:
    """Number of samples n -> e_n, the relative standard deviation with which a value on n predicts the one on all N.

    e_n is what log m_n - log m_N differs by between the baseline's seeds, pooled over steps: what is common to all
    seeds (a metric's bias on few samples) cancels wherever equal n are compared. Few seeds say little of a deviation,
    so it is the upper end of its confidence interval (CONFIDENCE, chi-square) that is taken, and at least e of every
    larger n. Where seeds say nothing, it is FLOOR * sqrt(N/n - 1), as of a mean whose value on all N has an error of
    FLOOR. 0 for N.
    """
    most = most_samples(baselines)
    errors, worst = {most: 0.0} if most else {}, 0.0
    for n in sorted({n for curve in baselines for scores in curve.values() for n in scores} - {most}, reverse=True):
        ratios: dict[int, list[float]] = {}
        for curve in baselines:
            for step, scores in curve.items():
                if scores.get(n, 0) > 0 and scores.get(most, 0) > 0:
                    ratios.setdefault(step, []).append(math.log(scores[n] / scores[most]))
        worst = max(worst, _upper_deviation(ratios.values()) or FLOOR * math.sqrt(most / n - 1))
        errors[n] = worst
    return errors


def _upper_deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """The deviation within groups that the true one exceeds with a probability of 1 - CONFIDENCE only.

    None where no group has two members, or none of them differ.
    """
    from scipy.special import chdtri

    groups = list(groups)
    deviation = _pooled_deviation(groups)
    if deviation is None or deviation < ROUNDING:
        return None
    freedom = sum(len(group) - 1 for group in groups if len(group) >= MIN_SEEDS)
    return deviation * math.sqrt(freedom / float(chdtri(freedom, CONFIDENCE)))


def _deviations(baselines: Sequence[Curve]) -> dict[int, dict[int, float]]:
    """Step -> seed -> deviation from the seeds' mean, of the logarithm on all N samples, in order of step.

    A value of 0 or below has no logarithm: as if its seed were away.
    """
    most = most_samples(baselines)
    steps: dict[int, dict[int, float]] = {}
    for seed, curve in enumerate(baselines):
        for step, scores in curve.items():
            if scores.get(most, 0) > 0:
                steps.setdefault(step, {})[seed] = math.log(scores[most])
    for logs in steps.values():
        mean = statistics.fmean(logs.values())
        logs.update({seed: value - mean for seed, value in logs.items()})
    return dict(sorted(steps.items()))


def _pooled_deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """Standard deviation within groups, weighted by degrees of freedom; None where no group has two members."""
    squares = freedom = 0.0
    for group in groups:
        if len(group) >= MIN_SEEDS:
            mean = statistics.fmean(group)
            squares += sum((value - mean) ** 2 for value in group)
            freedom += len(group) - 1
    return math.sqrt(squares / freedom) if freedom else None


def _correlation_of_neighbours(steps: Sequence[Mapping[int, float]]) -> float:
    """How much of a seed's deviation goes on to the next step, 0 (nothing) to 1. `steps`: seed -> deviation."""
    product = square = 0.0
    for earlier, later in itertools.pairwise(steps):
        for seed in earlier.keys() & later.keys():
            product += earlier[seed] * later[seed]
            square += (earlier[seed] ** 2 + later[seed] ** 2) / 2
    return max(0.0, product / square) if square else 0.0
