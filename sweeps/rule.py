"""The stopping rule: a candidate's curve against the baseline's. Pure; every verdict carries the numbers it rests on.

At a step that the baseline has reached, on the most samples n that both have, the gap is
    gap = (log m_n of the candidate - mean of the baseline's log m_n) / (s_N * sqrt(1 + 1/k)),
positive where the candidate is worse: the difference in units of its own standard deviation under "no difference", with
k baseline seeds and s_N their spread on all N samples (sweeps.looks). An evaluation counts against the candidate, a
strike, where gap > margin. The unit is the same at every n, so that a gap on few samples is the estimate of the gap on
all of them, and a strike means the same. As an estimate it is off by
    error = e_n / s_N
standard deviations of the difference, e_n being the one with which a value on n samples predicts the one on all (the
factor sqrt(1 + 1/k), for the error of a difference, stands above and below and cancels). `is_open` asks for more
samples while |gap - margin| < CLEAR * error: while a look at all of them could well turn a strike into none, or none
into a strike. It closes by the number and on the side that `judge` then counts by. On all samples the error is 0.

A metric with a bias on few samples (a Frechet distance) shows smaller differences there, because the bias is common to
both. That errs on the candidate's side: fewer strikes, and no stop, which takes all samples.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.looks import MIN_SEEDS, ROUNDING, Curve, Scores, most_samples, pooled_spread, prediction_errors

__all__ = ["CLEAR", "Curve", "Gap", "Scores", "StopConfig", "Verdict", "compare", "is_open", "judge"]

CLEAR = 2.0  # standard deviations of the prediction; beyond, a look at all samples would disagree about 1 time in 50
ADAPTIVE, FULL = "adaptive", "full"


@dataclass(frozen=True, kw_only=True)
class StopConfig:
    """When a candidate is stopped.

    margin: gap, in standard deviations of the difference, above which an evaluation counts against the candidate.
    patience: so many such evaluations in a row stop it.
    grace: fraction of the run before which evaluations do not count.
    evaluation: 'adaptive': an evaluation ends on as few samples as decide it; 'full': always on all.
    audit: share of those it would stop that go on to the end, drawn at random (sweeps.audit).
    """

    margin: float = 2.0
    patience: int = 2
    grace: float = 0.2
    evaluation: str = ADAPTIVE
    audit: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin: got {self.margin}, allowed is a finite number of at least 0")
        if self.patience < 1:
            raise ValueError(f"patience: got {self.patience}, allowed is an integer of at least 1")
        if not 0 <= self.grace <= 1:
            raise ValueError(f"grace: got {self.grace}, allowed is a fraction of the run, 0 to 1")
        if self.evaluation not in (ADAPTIVE, FULL):
            raise ValueError(f"evaluation: got {self.evaluation!r}, allowed is {ADAPTIVE} or {FULL}")
        if not 0 <= self.audit <= 1:
            raise ValueError(f"audit: got {self.audit}, allowed is a share of the stopped, 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the rule says at one evaluation.

    stop: whether the candidate ends here. reason: one line for people.
    judged_step: the latest step that could be compared; None where there was none.
    gap: see the module; None without a comparison. strikes: evaluations in a row above the margin.
    value, baseline_mean (geometric): on num_samples. spread (relative), seeds: what the gap was measured with.
    error: of the gap, in the gap's unit; 0 on all samples.
    audited: the candidate would end here, and goes on as an audit of the rule (sweeps.audit).
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
    num_samples: int | None = None
    error: float = 0.0
    audited: bool = False


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The comparison at one step, on num_samples. gap, error: see the module."""

    step: int
    num_samples: int
    value: float
    baseline_mean: float
    spread: float
    seeds: int
    gap: float
    error: float


def judge(
    candidate: Curve, baselines: Sequence[Curve], config: StopConfig, *, num_steps: int, mode: str = "min"
) -> Verdict:
    """Judge the whole curve so far. A candidate ahead of the baseline is caught up with at its next evaluation.

    It stops only on all samples: strikes before the last may be told from fewer.
    """
    gaps = _judged(candidate, baselines, config, num_steps, mode)
    if not gaps:
        return Verdict(stop=False, reason="not judged yet: in grace, or the baseline has not come this far")
    strikes = _strikes(gaps, config.margin)
    last = gaps[-1]
    all_samples = most_samples(baselines)
    stop = strikes >= config.patience and last.num_samples == all_samples
    return Verdict(
        stop=stop,
        reason=_reason(last, strikes, stop, config, all_samples),
        judged_step=last.step,
        value=last.value,
        baseline_mean=last.baseline_mean,
        spread=last.spread,
        seeds=last.seeds,
        gap=last.gap,
        strikes=strikes,
        num_samples=last.num_samples,
        error=last.error,
    )


def is_open(
    candidate: Curve,
    baselines: Sequence[Curve],
    config: StopConfig,
    *,
    num_steps: int,
    num_samples: int,
    mode: str = "min",
) -> bool:
    """Whether the candidate's latest step should be evaluated on more samples, of `num_samples` in all.

    Also while nothing is measured there, at the last step, where the baseline has not come this far (nobody can tell
    yet what will be needed), and where a strike would stop the candidate. Not in the grace, which decides nothing.
    """
    step = max(candidate, default=0)
    scores = candidate.get(step, {})
    if not scores:
        return True
    if max(scores) >= num_samples:
        return False
    if config.evaluation == FULL or step >= num_steps:
        return True
    if step < config.grace * num_steps:
        return False
    gaps = _judged(candidate, baselines, config, num_steps, mode)
    last = gaps[-1] if gaps else None
    if last is None or (last.step, last.num_samples) != (step, max(scores)) or most_samples(baselines) != num_samples:
        return True
    if abs(last.gap - config.margin) < CLEAR * last.error:
        return True
    return _strikes(gaps, config.margin) >= config.patience


def compare(candidate: Curve, baselines: Sequence[Curve], *, mode: str = "min") -> list[Gap]:
    """The gap at every step of the candidate that at least two baseline seeds have reached, at equal n: the largest."""
    spread, errors = pooled_spread(baselines), prediction_errors(baselines)
    if spread is None:
        return []
    gaps = []
    for step, scores in sorted(candidate.items()):
        for num_samples in sorted(scores, reverse=True):
            seeds = [curve[step][num_samples] for curve in baselines if curve.get(step, {}).get(num_samples, 0) > 0]
            if len(seeds) >= MIN_SEEDS:
                gaps.append(_gap(step, num_samples, scores[num_samples], seeds, spread, errors[num_samples], mode))
                break
    return gaps


def _gap(
    step: int, num_samples: int, value: float, seeds: Sequence[float], spread: float, error: float, mode: str
) -> Gap:
    """One comparison; `seeds` are the baseline's values, `error` is relative."""
    log_mean = statistics.fmean(map(math.log, seeds))
    # A value of 0 or below (an unbiased MMD can be) is better than anything a logarithm can say.
    difference = math.log(value) - log_mean if value > 0 else -math.inf
    if abs(difference) < ROUNDING:
        difference = 0.0
    worse = difference if mode == "min" else -difference
    return Gap(
        step=step,
        num_samples=num_samples,
        value=value,
        baseline_mean=math.exp(log_mean),
        spread=spread,
        seeds=len(seeds),
        gap=worse / (spread * math.sqrt(1 + 1 / len(seeds))),
        error=error / spread,
    )


def _judged(candidate: Curve, baselines: Sequence[Curve], config: StopConfig, num_steps: int, mode: str) -> list[Gap]:
    """The gaps that count: those outside the grace."""
    return [gap for gap in compare(candidate, baselines, mode=mode) if gap.step >= config.grace * num_steps]


def _strikes(gaps: Sequence[Gap], margin: float) -> int:
    count = 0
    for gap in reversed(gaps):
        if not gap.gap > margin:
            break
        count += 1
    return count


def _reason(gap: Gap, strikes: int, stop: bool, config: StopConfig, all_samples: int) -> str:
    side = "worse" if gap.gap > 0 else "better"
    samples = "" if gap.num_samples == all_samples else f" (n={gap.num_samples})"
    place = f"{abs(gap.gap):.1f} spreads {side} than the baseline at step {gap.step}{samples}"
    if stop:
        return f"{place}, {strikes} evaluations in a row above the margin of {config.margin:g}"
    if strikes:
        return f"{place}, strike {strikes} of {config.patience}"
    return place
