"""The stopping rule: a candidate's curve against the baseline's. Pure; every verdict carries the numbers it rests on.

At a step that the baseline has reached, the gap is
    (log metric of the candidate - mean of the baseline's log metrics) / (spread * sqrt(1 + 1/n)),
positive where the candidate is worse: the difference in units of its own standard deviation under "no difference", with
n baseline seeds. The logarithm makes the units relative, because a metric's noise scales with its size ("The FID
Lottery", arXiv 2606.20536). The spread is the standard deviation between seeds, pooled over the steps, so that two
seeds which happen to agree at one step do not pretend to a spread of zero; below three seeds it is at least 1 %.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Curve = Mapping[int, float]  # step -> metric value

FLOOR = 0.01  # relative; 1 to 2 % is what FID moves between training seeds
FLOOR_BELOW_SEEDS = 3
MIN_SEEDS = 2
ROUNDING = 1e-9  # relative; anything smaller is arithmetic, not training


@dataclass(frozen=True, kw_only=True)
class StopConfig:
    """When a candidate is stopped.

    margin: gap, in standard deviations of the difference, above which an evaluation counts against the candidate.
    patience: so many such evaluations in a row stop it.
    grace: fraction of the run before which evaluations do not count.
    """

    margin: float = 2.0
    patience: int = 2
    grace: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin: got {self.margin}, allowed is a finite number of at least 0")
        if self.patience < 1:
            raise ValueError(f"patience: got {self.patience}, allowed is an integer of at least 1")
        if not 0 <= self.grace <= 1:
            raise ValueError(f"grace: got {self.grace}, allowed is a fraction of the run, 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the rule says at one evaluation.

    stop: whether the candidate ends here. reason: one line for people.
    judged_step: the latest step that could be compared; None where there was none.
    gap: see the module; None without a comparison. strikes: evaluations in a row above the margin.
    baseline_mean (geometric), spread (relative), seeds: what the gap was measured with, at judged_step.
    """

    stop: bool
    reason: str
    judged_step: int | None = None
    value: float | None = None
    baseline_mean: float | None = None
    spread: float | None = None
    seeds: int = 0
    gap: float | None = None
    strikes: int = 0


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The comparison at one step."""

    step: int
    value: float
    baseline_mean: float
    spread: float
    seeds: int
    gap: float


def judge(
    candidate: Curve, baselines: Sequence[Curve], config: StopConfig, *, num_steps: int, mode: str = "min"
) -> Verdict:
    """Judge the whole curve so far. A candidate ahead of the baseline is caught up with at its next evaluation."""
    gaps = [gap for gap in compare(candidate, baselines, mode=mode) if gap.step >= config.grace * num_steps]
    if not gaps:
        return Verdict(stop=False, reason="not judged yet: in grace, or the baseline has not come this far")
    strikes = _strikes([gap.gap for gap in gaps], config.margin)
    last = gaps[-1]
    stop = strikes >= config.patience
    return Verdict(
        stop=stop,
        reason=_reason(last, strikes, stop, config),
        judged_step=last.step,
        value=last.value,
        baseline_mean=last.baseline_mean,
        spread=last.spread,
        seeds=last.seeds,
        gap=last.gap,
        strikes=strikes,
    )


def compare(candidate: Curve, baselines: Sequence[Curve], *, mode: str = "min") -> list[Gap]:
    """The gap at every step of the candidate that at least two baseline seeds have reached."""
    spread = pooled_spread(baselines)
    gaps = []
    for step, value in sorted(candidate.items()):
        at_step = [curve[step] for curve in baselines if curve.get(step, 0) > 0]
        if len(at_step) < MIN_SEEDS or spread is None:
            continue
        # A value of 0 or below (an unbiased MMD can be) is better than anything a logarithm can say.
        log_mean = statistics.fmean(map(math.log, at_step))
        difference = math.log(value) - log_mean if value > 0 else -math.inf
        if abs(difference) < ROUNDING:
            difference = 0.0
        worse = difference if mode == "min" else -difference
        units = worse / (spread * math.sqrt(1 + 1 / len(at_step)))
        gaps.append(
            Gap(
                step=step,
                value=value,
                baseline_mean=math.exp(log_mean),
                spread=spread,
                seeds=len(at_step),
                gap=units,
            )
        )
    return gaps


def pooled_spread(baselines: Sequence[Curve]) -> float | None:
    """Relative standard deviation between seeds, pooled over steps; None while fewer than two seeds share a step."""
    squares, freedom, most_seeds = 0.0, 0, 0
    for step in sorted({step for curve in baselines for step in curve}):
        logs = [math.log(curve[step]) for curve in baselines if curve.get(step, 0) > 0]
        if len(logs) < MIN_SEEDS:
            continue
        squares += statistics.variance(logs) * (len(logs) - 1)
        freedom += len(logs) - 1
        most_seeds = max(most_seeds, len(logs))
    if not freedom:
        return None
    spread = math.sqrt(squares / freedom)
    # Equal curves would make every other curve infinitely worse: the floor then holds for any number of seeds.
    return max(spread, FLOOR) if most_seeds < FLOOR_BELOW_SEEDS or spread < ROUNDING else spread


def _strikes(gaps: Sequence[float], margin: float) -> int:
    count = 0
    for gap in reversed(gaps):
        if not gap > margin:
            break
        count += 1
    return count


def _reason(gap: Gap, strikes: int, stop: bool, config: StopConfig) -> str:
    side = "worse" if gap.gap > 0 else "better"
    place = f"{abs(gap.gap):.1f} spreads {side} than the baseline at step {gap.step}"
    if stop:
        return f"{place}, {strikes} evaluations in a row above the margin of {config.margin:g}"
    if strikes:
        return f"{place}, strike {strikes} of {config.patience}"
    return place
