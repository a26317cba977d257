"""The stopping rule: a candidate's curve against the baseline's. Pure; every verdict carries the numbers it rests on.

At a step that enough seeds of the baseline have reached, on the most samples n that both have, the gap is
    gap = (log m_n of the candidate - mean of the baseline's log m_n) / (s_N * sqrt(1 + 1/k)),
positive where the candidate is worse: the difference in units of its own standard deviation under "no difference", with
k baseline seeds and s_N their spread on all N samples (sweeps.looks). An evaluation counts against the candidate, a
strike, where gap > margin. Few seeds only estimate s_N, and the smaller the estimate happens to be, the larger every
gap: so the margin of the settings, in standard deviations of a normal, is corrected to the quantile of Student's t that
is exceeded as rarely (Spread.corrected). The unit is the same at every n, so that a gap on few samples is the estimate
of the gap on all of them, and a strike means the same. As an estimate it is off by
    error = e_n / s_N
standard deviations of the difference, e_n being the one with which a value on n samples predicts the one on all (the
factor sqrt(1 + 1/k), for the error of a difference, stands above and below and cancels). `is_open` asks for more
samples while |gap - margin| < CLEAR * error: while a look at all of them could well turn a strike into none, or none
into a strike. It closes by the number and on the side that `judge` then counts by. On all samples the error is 0.

A metric with a bias on few samples (a Frechet distance) shows smaller differences there, because the bias is common to
both. That errs on the candidate's side: fewer strikes, and no stop, which takes all samples.

A metric that is not finite fails a trial where it is computed; should one come here, it counts as infinitely worse.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sweeps.looks import (
    MIN_SEEDS,
    ROUNDING,
    Curve,
    Scores,
    Spread,
    measured_spread,
    most_samples,
    prediction_errors,
)

__all__ = ["CLEAR", "Curve", "Gap", "Scores", "StopConfig", "Verdict", "compare", "is_open", "judge"]

CLEAR = 2.0  # standard deviations of the prediction; beyond, a look at all samples would disagree about 1 time in 50
FEWEST_FOR_A_TREND = 3  # comparisons
ADAPTIVE, FULL = "adaptive", "full"


@dataclass(frozen=True, kw_only=True)
class StopConfig:
    """When a candidate is stopped.

    margin: gap, in standard deviations of the difference, above which an evaluation counts against the candidate; it is
    corrected for the number of seeds (sweeps.looks.Spread).
    patience: so many such evaluations in a row stop it.
    grace: fraction of the run before which evaluations do not count.
    min_seeds: a step is judged once so many baseline seeds have passed it, and then at once with all before it.
    evaluation: 'adaptive': an evaluation ends on as few samples as decide it; 'full': always on all.
    audit: share of those it would stop that go on to the end, drawn at random (sweeps.audit).
    """

    margin: float = 2.0
    patience: int = 2
    grace: float = 0.2
    min_seeds: int = MIN_SEEDS
    evaluation: str = ADAPTIVE
    audit: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin: got {self.margin}, allowed is a finite number of at least 0")
        if self.patience < 1:
            raise ValueError(f"patience: got {self.patience}, allowed is an integer of at least 1")
        if not 0 <= self.grace <= 1:
            raise ValueError(f"grace: got {self.grace}, allowed is a fraction of the run, 0 to 1")
        if self.min_seeds < MIN_SEEDS:
            raise ValueError(
                f"min_seeds: got {self.min_seeds}, allowed is at least {MIN_SEEDS}: one seed has no spread"
            )
        if self.evaluation not in (ADAPTIVE, FULL):
            raise ValueError(f"evaluation: got {self.evaluation!r}, allowed is {ADAPTIVE} or {FULL}")
        if not 0 <= self.audit <= 1:
            raise ValueError(f"audit: got {self.audit}, allowed is a share of the stopped, 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the rule says at one evaluation.

    stop: whether the candidate ends here. reason: one line for people.
    judged_step: the latest step that could be compared; None where there was none.
    gap: see the module; None without a comparison. strikes: evaluations in a row above the margin, at steps `struck`.
    value, baseline_mean (geometric): on num_samples. spread (relative), seeds: what the gap was measured with.
    margin: as corrected for the `freedom` of the spread, in degrees. error: of the gap, in the gap's unit; 0 on all
    samples. forecast: the gap at the last step of the run, if it goes on as it has; None below three comparisons. It
    decides nothing.
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
    margin: float | None = None
    freedom: float | None = None
    struck: tuple[int, ...] = ()
    forecast: float | None = None
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
    spread = measured_spread(baselines)
    gaps = _judged(candidate, baselines, config, spread, num_steps, mode)
    if spread is None or not gaps:
        return Verdict(stop=False, reason="not judged yet: in grace, or the baseline has not come this far")
    margin = spread.corrected(config.margin)
    struck = _struck(gaps, margin)
    last = gaps[-1]
    all_samples = most_samples(baselines)
    stop = len(struck) >= config.patience and last.num_samples == all_samples
    verdict = Verdict(
        stop=stop,
        reason="",
        judged_step=last.step,
        value=last.value,
        baseline_mean=last.baseline_mean,
        spread=last.spread,
        seeds=last.seeds,
        gap=last.gap,
        strikes=len(struck),
        num_samples=last.num_samples,
        error=last.error,
        margin=margin,
        freedom=spread.freedom,
        struck=struck,
        forecast=_forecast(gaps, num_steps),
    )
    return replace(verdict, reason=_reason(verdict, config, all_samples, num_steps))


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
    spread = measured_spread(baselines)
    gaps = _judged(candidate, baselines, config, spread, num_steps, mode)
    last = gaps[-1] if gaps else None
    if last is None or (last.step, last.num_samples) != (step, max(scores)) or most_samples(baselines) != num_samples:
        return True
    assert spread is not None
    margin = spread.corrected(config.margin)
    if abs(last.gap - margin) < CLEAR * last.error:
        return True
    return len(_struck(gaps, margin)) >= config.patience


def compare(candidate: Curve, baselines: Sequence[Curve], *, mode: str = "min") -> list[Gap]:
    """The gap at every step of the candidate that at least two baseline seeds have reached, at equal n: the largest."""
    return _compared(candidate, baselines, measured_spread(baselines), MIN_SEEDS, mode)


def _compared(
    candidate: Curve, baselines: Sequence[Curve], spread: Spread | None, min_seeds: int, mode: str
) -> list[Gap]:
    if spread is None:
        return []
    errors, gaps = prediction_errors(baselines), []
    for step, scores in sorted(candidate.items()):
        for n in sorted(scores, reverse=True):
            seeds = [curve[step][n] for curve in baselines if curve.get(step, {}).get(n, 0) > 0]
            if len(seeds) >= min_seeds:
                gaps.append(_gap(step, n, scores[n], seeds, spread.value, errors[n], mode))
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
    if math.isnan(value) or math.isinf(value):
        worse = math.inf
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


def _judged(
    candidate: Curve, baselines: Sequence[Curve], config: StopConfig, spread: Spread | None, num_steps: int, mode: str
) -> list[Gap]:
    """The gaps that count: those outside the grace, at steps that enough seeds have passed."""
    gaps = _compared(candidate, baselines, spread, config.min_seeds, mode)
    return [gap for gap in gaps if gap.step >= config.grace * num_steps]


def _struck(gaps: Sequence[Gap], margin: float) -> tuple[int, ...]:
    """The last steps in a row that are above the margin."""
    above = itertools.takewhile(lambda gap: gap.gap > margin, reversed(gaps))
    return tuple(gap.step for gap in above)[::-1]


def _forecast(gaps: Sequence[Gap], num_steps: int) -> float | None:
    """The gap at the end, on the straight line through the gaps over the logarithm of the step (least squares)."""
    known = [gap for gap in gaps if math.isfinite(gap.gap) and gap.step > 0]
    if len(known) < FEWEST_FOR_A_TREND:
        return None
    steps = [math.log(gap.step) for gap in known]
    slope, start = statistics.linear_regression(steps, [gap.gap for gap in known])
    return start + slope * math.log(num_steps)


def _reason(verdict: Verdict, config: StopConfig, all_samples: int, num_steps: int) -> str:
    assert verdict.gap is not None
    samples = "" if verdict.num_samples == all_samples else f" (n={verdict.num_samples})"
    told = f"{_spoken(verdict.gap)} than the baseline at step {verdict.judged_step}{samples}"
    if verdict.stop:
        told += f", {verdict.strikes} evaluations in a row above the margin of {verdict.margin:.2g}"
    elif verdict.strikes:
        told += f", strike {verdict.strikes} of {config.patience}"
    if verdict.forecast is not None and verdict.judged_step != num_steps:
        told += f"; on this trend {_spoken(verdict.forecast)} at the end"
    return told


def _spoken(gap: float) -> str:
    return f"{abs(gap):.1f} spreads {'worse' if gap > 0 else 'better'}"
