"""A trial's metric as people read it: as if on all samples, and against the baseline at the same step."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.looks import Curve, Scores, most_samples, on_samples, pooled_spread
from sweeps.rule import compare

CONCLUSIVE = 2.0  # spreads; a smaller difference is told as inconclusive


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric as it would be on all samples.

    value: on all `num_samples` of them where `full`; else the value on so many, times the baseline's ratio between all
    and so many at the same step where `scaled`, as it was measured where there is no such ratio.
    """

    value: float
    num_samples: int
    full: bool
    scaled: bool

    @property
    def comparable(self) -> bool:
        """Whether it may stand beside values on all samples."""
        return self.full or self.scaled


def estimate(scores: Scores, at_step: Sequence[Scores], num_samples: int) -> Estimate:
    """The value on all N = `num_samples`, from the most samples n there are.

    at_step: the baseline seeds' scores at the same step. The estimate is
    m_n * (mean of the baseline's m_N / mean of its m_n), with geometric means over the seeds that have both.
    """
    n = max(scores)
    if n >= num_samples:
        return Estimate(value=scores[n], num_samples=n, full=True, scaled=False)
    ratios = [seed[num_samples] / seed[n] for seed in at_step if seed.get(n, 0) > 0 and seed.get(num_samples, 0) > 0]
    if not ratios:
        return Estimate(value=scores[n], num_samples=n, full=False, scaled=False)
    return Estimate(value=scores[n] * statistics.geometric_mean(ratios), num_samples=n, full=False, scaled=True)


@dataclass(frozen=True, kw_only=True)
class BaselinePoint:
    """The baseline at a step, on all samples.

    mean: geometric, over `seeds` seeds. spread: relative (sweeps.looks); None below two seeds.
    """

    step: int
    mean: float
    spread: float | None
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A metric at a trial's last evaluation, against the baseline's mean at the same step.

    percent: signed relative difference. gap: in spreads, positive where worse. None: no baseline to compare
    with, or (gap) a metric of which it is unknown which way is better. Both are taken at equal numbers of samples.
    """

    step: int
    estimate: Estimate
    percent: float | None = None
    gap: float | None = None

    @property
    def value(self) -> float:
        return self.estimate.value


def baseline_points(curves: Sequence[Curve]) -> tuple[BaselinePoint, ...]:
    """The baseline's mean and spread at every step that a seed has reached, by the conventions of sweeps.looks."""
    spread, num_samples = pooled_spread(curves), most_samples(curves)
    on_all = [on_samples(curve, num_samples) for curve in curves]
    points = []
    for step in sorted({step for curve in on_all for step in curve}):
        values = [curve[step] for curve in on_all if step in curve]
        positive = [value for value in values if value > 0]
        mean = statistics.geometric_mean(positive) if positive else statistics.fmean(values)
        known = spread if len(positive) > 1 else None
        points.append(BaselinePoint(step=step, mean=mean, spread=known, seeds=len(positive) or len(values)))
    return tuple(points)


def estimates(curve: Curve, baselines: Sequence[Curve], num_samples: int) -> dict[int, Estimate]:
    """Step -> the curve's value on all `num_samples`, as it is or estimated."""
    return {
        step: estimate(scores, [seed[step] for seed in baselines if step in seed], num_samples)
        for step, scores in curve.items()
    }


def reading(curve: Curve, last: Estimate, baselines: Sequence[Curve], mode: str | None) -> Reading:
    """The curve's end, whose estimate is `last`. mode: 'min', 'max', None where it is unknown which way is better."""
    step = max(curve)
    mean = next((point.mean for point in baseline_points(baselines) if point.step == step), None)
    if mean is None or mean <= 0 or not last.comparable:
        return Reading(step=step, estimate=last)
    gaps = compare(curve, baselines, mode=mode) if mode else []
    gap = next((gap.gap for gap in gaps if gap.step == step), None)
    return Reading(step=step, estimate=last, percent=100 * (last.value / mean - 1), gap=gap)
