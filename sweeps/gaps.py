"""How far a candidate is from the baseline, in spreads: the comparison that the stopping rule and the page rest on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.looks import MIN_SEEDS, ROUNDING, Curve, Spread, measured_spread, prediction_errors


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The comparison at one step, on num_samples. gap, error: see sweeps.rule."""

    step: int
    num_samples: int
    value: float
    baseline_mean: float
    spread: float
    seeds: int
    gap: float
    error: float


def compare(candidate: Curve, baselines: Sequence[Curve], *, mode: str = "min") -> list[Gap]:
    """The gap at every step of the candidate that at least two baseline seeds have reached, at equal n: the largest."""
    spread = measured_spread(baselines)
    return [] if spread is None else Yardstick.of(baselines, spread, mode=mode).gaps(candidate)


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """The baseline as it stands: what candidates are measured with.

    means: step -> number of samples -> mean of the seeds' logarithms, and how many seeds; only where enough have come.
    errors: by number of samples, relative (sweeps.looks).
    """

    spread: Spread
    means: Mapping[int, Mapping[int, tuple[float, int]]]
    errors: Mapping[int, float]
    mode: str

    @classmethod
    def of(
        cls, baselines: Sequence[Curve], spread: Spread, *, min_seeds: int = MIN_SEEDS, mode: str = "min"
    ) -> Yardstick:
        logs: dict[int, dict[int, list[float]]] = {}
        for curve in baselines:
            for step, scores in curve.items():
                for n, value in scores.items():
                    if value > 0:
                        logs.setdefault(step, {}).setdefault(n, []).append(math.log(value))
        means = {
            step: {n: (statistics.fmean(seeds), len(seeds)) for n, seeds in at.items() if len(seeds) >= min_seeds}
            for step, at in logs.items()
        }
        return cls(spread=spread, means=means, errors=prediction_errors(baselines), mode=mode)

    def gaps(self, candidate: Curve) -> list[Gap]:
        """In order of step; at each on the largest n that the candidate and enough seeds have."""
        gaps = []
        for step in sorted(candidate):
            scores, means = candidate[step], self.means.get(step, {})
            n = max((n for n in scores if n in means), default=None)
            if n is not None:
                gaps.append(self._gap(step, n, scores[n], *means[n]))
        return gaps

    def _gap(self, step: int, num_samples: int, value: float, log_mean: float, seeds: int) -> Gap:
        # A value of 0 or below (an unbiased MMD can be) is better than anything a logarithm can say.
        difference = math.log(value) - log_mean if value > 0 else -math.inf
        if abs(difference) < ROUNDING:
            difference = 0.0
        worse = difference if self.mode == "min" else -difference
        if not math.isfinite(value):
            worse = math.inf
        return Gap(
            step=step,
            num_samples=num_samples,
            value=value,
            baseline_mean=math.exp(log_mean),
            spread=self.spread.value,
            seeds=seeds,
            gap=worse / (self.spread.value * math.sqrt(1 + 1 / seeds)),
            error=self.errors[num_samples] / self.spread.value,
        )
