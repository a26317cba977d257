"""A metric that is known on nested numbers of samples: what the baseline's seeds say of each, and of all from a few.

The samples of an evaluation are one ordered list, and a look is the metric on its first n. Values on different n are
never compared: a metric on fewer samples is noisier, and Frechet distances are also larger. N is the largest n of
the baseline, which is always measured on all of them. The logarithm makes noise relative, because a metric's noise
scales with its size ("The FID Lottery", arXiv 2606.20536).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

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


def pooled_spread(baselines: Sequence[Curve]) -> float | None:
    """Relative standard deviation between seeds on all N samples, pooled over steps.

    None while fewer than two seeds share a step. Pooled, so that two seeds which happen to agree at one step do not
    pretend to a spread of zero; below three seeds it is at least FLOOR.
    """
    most = most_samples(baselines)
    groups = [[math.log(value) for value in values] for values in _by_step(baselines, most).values()]
    spread = _pooled_deviation(groups)
    if spread is None:
        return None
    # Equal curves would make every other curve infinitely worse: the floor then holds for any number of seeds.
    return max(spread, FLOOR) if max(map(len, groups)) < FLOOR_BELOW_SEEDS or spread < ROUNDING else spread


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


def _by_step(curves: Iterable[Curve], num_samples: int) -> dict[int, list[float]]:
    """Step -> the positive values on so many samples. One of 0 or below has no logarithm: as if its seed were away."""
    values: dict[int, list[float]] = {}
    for curve in curves:
        for step, scores in curve.items():
            if scores.get(num_samples, 0) > 0:
                values.setdefault(step, []).append(scores[num_samples])
    return dict(sorted(values.items()))


def _pooled_deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """Standard deviation within groups, weighted by degrees of freedom; None where no group has two members."""
    several = [group for group in groups if len(group) >= MIN_SEEDS]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        return None
    return math.sqrt(sum(statistics.variance(group) * (len(group) - 1) for group in several) / freedom)
