"""The difference between confirmed candidates and the baseline, and how sure it is. Pure.

Runs share seeds, and a seed's luck (weights, noise, order of the data) is much the same for all runs with it. So
    log m(run, seed) = run + seed + rest,
the blocks of a randomised block design: what is left without the means of runs and seeds has the standard deviation s,
with (runs - 1) * (seeds - 1) degrees of freedom where every run has every seed. With one candidate that is the
paired Student's t; every further one makes s surer.

The difference is the mean of log(candidate / baseline) over its *fresh* seeds. The first seed is left out: the
candidate was chosen for its luck there (the winner's curse). s takes all seeds: luck on the first can only widen it.
The interval is difference +- t * s * sqrt(2 / fresh seeds). docs/decisions/0012 has what other intervals would do.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sweeps.looks import FLOOR, ROUNDING

Name = TypeVar("Name", bound=Hashable)
WRONG = 0.05  # how often an interval may miss, and a winner be none


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A candidate against the baseline in one metric, in percent of the baseline.

    percent, low, high: on fresh seeds; low and high are None where nothing is known of the spread. level: of the
    interval. fresh: seeds that it rests on. freedom: degrees of freedom of the spread.
    first_percent: on the seed that the candidate was chosen for. shift_percent: how much better the first seed was, or
    worse, than fresh ones are; signed like a difference.
    """

    percent: float
    low: float | None
    high: float | None
    level: float
    fresh: int
    freedom: int
    first_percent: float | None
    shift_percent: float | None

    def better(self, mode: str) -> bool:
        """Whether the whole interval lies on the better side."""
        return self._beyond(above=mode == "max")

    def worse(self, mode: str) -> bool:
        """Whether the whole interval lies on the worse side."""
        return self._beyond(above=mode == "min")

    def _beyond(self, *, above: bool) -> bool:
        if self.low is None or self.high is None:
            return False
        return self.low > 0 if above else self.high < 0


def level(num_candidates: int) -> float:
    """Of each interval, so that the best of so many is wrongly said to win in at most 1 of 20 sweeps.

    An interval misses on the better side in half of its misses: 95 % serve one candidate, or two.
    """
    return 1 - WRONG / max(1, num_candidates / 2)


def differences(
    baseline: Mapping[int, float], candidates: Mapping[Name, Mapping[int, float]], *, first_seed: int
) -> dict[Name, Difference]:
    """Candidate -> its difference, for those that share a fresh seed with the baseline. Values are by seed.

    A value of 0 or below has no logarithm: as if its seed were away.
    """
    from scipy.special import stdtrit

    against, logs = _logs(baseline), {name: _logs(values) for name, values in candidates.items()}
    deviation, freedom = _deviation([against, *logs.values()])
    confidence = level(len(candidates))
    found = {}
    for name in candidates:
        pairs = {seed: value - against[seed] for seed, value in logs[name].items() if seed in against}
        fresh = [difference for seed, difference in pairs.items() if seed != first_seed]
        if not fresh:
            continue
        middle = _rounded(statistics.fmean(fresh))
        half = None
        if deviation is not None:
            half = float(stdtrit(freedom, (1 + confidence) / 2)) * deviation * math.sqrt(2 / len(fresh))
        first = pairs.get(first_seed)
        found[name] = Difference(
            percent=_percent(middle),
            low=None if half is None else _percent(middle - half),
            high=None if half is None else _percent(middle + half),
            level=confidence,
            fresh=len(fresh),
            freedom=freedom,
            first_percent=None if first is None else _percent(first),
            shift_percent=None if first is None else _percent(_rounded(first - middle)),
        )
    return found


def _logs(values: Mapping[int, float]) -> dict[int, float]:
    return {seed: math.log(value) for seed, value in values.items() if value > 0}


def _percent(difference: float) -> float:
    return 100 * math.expm1(min(difference, 700.0))  # beyond, there is no such float


def _rounded(difference: float) -> float:
    return 0.0 if abs(difference) < ROUNDING else difference


def _deviation(logs: Sequence[Mapping[int, float]]) -> tuple[float | None, int]:
    """The standard deviation of what is left without the means of runs and seeds, and its degrees of freedom.

    Least squares, so that a run may lack a seed. (None, 0) where nothing would be left by arithmetic alone.
    """
    import numpy as np

    cells = [(run, seed, value) for run, by_seed in enumerate(logs) for seed, value in by_seed.items()]
    runs, seeds = list(dict.fromkeys(run for run, _, _ in cells)), sorted({seed for _, seed, _ in cells})
    design = np.array([[r == run for r in runs] + [s == seed for s in seeds] for run, seed, _ in cells], dtype=float)
    values = np.array([value for _, _, value in cells])
    if not cells:
        return None, 0
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    freedom = len(cells) - int(rank)
    if freedom < 1:
        return None, 0
    deviation = math.sqrt(float(((values - design @ solution) ** 2).sum()) / freedom)
    # Equal to the last digit is no luck but the same run twice; it must not pass for certainty.
    return (deviation if deviation > ROUNDING else FLOOR), freedom
