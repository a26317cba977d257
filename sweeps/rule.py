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

from sweeps.gaps import Gap, Yardstick, compare
from sweeps.halving import Halving, Place, place_among
from sweeps.looks import MIN_SEEDS, Curve, Scores, measured_spread, most_samples

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
    halving: thin out those that keep up with the baseline (sweeps.halving); null: all of them go on to the end.
    evaluation: 'adaptive': an evaluation ends on as few samples as decide it; 'full': always on all.
    audit: share of those it would stop that go on to the end, drawn at random (sweeps.audit).
    """

    margin: float = 2.0
    patience: int = 2
    grace: float = 0.2
    min_seeds: int = MIN_SEEDS
    halving: Halving | None = None
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

    @property
    def begins(self) -> float:
        """The fraction of the run before which nothing is decided."""
        return self.grace if self.halving is None else min(self.grace, self.halving.start)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the rule says at one evaluation.

    stop: whether the candidate ends here. reason: one line for people.
    judged_step: the latest step that could be compared; None where there was none.
    gap: see the module; None without a comparison. strikes: evaluations in a row above the margin, at steps `struck`.
    value, baseline_mean (geometric): on num_samples. spread (relative), seeds: what the gap was measured with.
    margin: as corrected for the `freedom` of the spread, in degrees. error: of the gap, in the gap's unit; 0 on all
    samples. forecast: the gap at the last step of the run, if it goes on as it has; None below three comparisons. It
    decides nothing. rank, ranked, kept: with halving, the place among the candidates that have come as far, and how
    many of those go on.
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
    rank: int | None = None
    ranked: int = 0
    kept: int | None = None
    audited: bool = False


def judge(
    candidate: Curve,
    baselines: Sequence[Curve],
    config: StopConfig,
    *,
    num_steps: int,
    mode: str = "min",
    peers: Sequence[Curve] = (),
) -> Verdict:
    """Judge the whole curve so far. A candidate ahead of the baseline is caught up with at its next evaluation.

    It stops only on all samples: strikes before the last may be told from fewer. peers: the curves of all other
    candidates, which only halving reads.
    """
    standing = _standing(candidate, baselines, config, num_steps, mode, peers)
    if standing is None or not standing.decides:
        return Verdict(stop=False, reason="not judged yet: in grace, or the baseline has not come this far")
    last, place, all_samples = standing.last, standing.place, most_samples(baselines)
    verdict = Verdict(
        stop=standing.falls_short and last.num_samples == all_samples,
        reason="",
        judged_step=last.step,
        value=last.value,
        baseline_mean=last.baseline_mean,
        spread=last.spread,
        seeds=last.seeds,
        gap=last.gap,
        strikes=len(standing.struck),
        num_samples=last.num_samples,
        error=last.error,
        margin=standing.margin,
        freedom=standing.freedom,
        struck=standing.struck,
        forecast=_forecast(standing.gaps, num_steps),
        rank=place.rank if place else None,
        ranked=place.of if place else 0,
        kept=place.kept if place else None,
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
    peers: Sequence[Curve] = (),
) -> bool:
    """Whether the candidate's latest step should be evaluated on more samples, of `num_samples` in all.

    Also while nothing is measured there, at the last step, where the baseline has not come this far (nobody can tell
    yet what will be needed), and where the verdict would be to stop. Not in the grace, which decides nothing.
    """
    step = max(candidate, default=0)
    scores = candidate.get(step, {})
    if not scores:
        return True
    if max(scores) >= num_samples:
        return False
    if config.evaluation == FULL or step >= num_steps:
        return True
    if step < config.begins * num_steps:
        return False
    standing = _standing(candidate, baselines, config, num_steps, mode, peers)
    if standing is None or most_samples(baselines) != num_samples:
        return True
    if (standing.last.step, standing.last.num_samples) != (step, max(scores)):
        return True
    return standing.decides and standing.near


@dataclass(frozen=True, kw_only=True)
class _Standing:
    """Where a candidate stands. last: its latest comparison. gaps: those that count, outside the grace."""

    last: Gap
    gaps: Sequence[Gap]
    struck: tuple[int, ...]
    margin: float
    freedom: float
    patience: int
    place: Place | None

    @property
    def decides(self) -> bool:
        """Whether there is anything to judge by."""
        return bool(self.gaps) or self.place is not None

    @property
    def falls_short(self) -> bool:
        return len(self.struck) >= self.patience or (self.place is not None and self.place.left_behind)

    @property
    def near(self) -> bool:
        """Whether it would stop, or whether more samples could well say otherwise."""
        error = CLEAR * self.last.error
        at_margin = bool(self.gaps) and abs(self.last.gap - self.margin) < error
        at_cut = self.place is not None and self.place.beyond > -error
        return self.falls_short or at_margin or at_cut


def _standing(
    candidate: Curve, baselines: Sequence[Curve], config: StopConfig, num_steps: int, mode: str, peers: Sequence[Curve]
) -> _Standing | None:
    """None while nothing can be compared."""
    spread = measured_spread(baselines)
    if spread is None:
        return None
    yardstick = Yardstick.of(baselines, spread, min_seeds=config.min_seeds, mode=mode)
    compared = yardstick.gaps(candidate)
    if not compared:
        return None
    margin = spread.corrected(config.margin)
    counting = [gap for gap in compared if gap.step >= config.grace * num_steps]
    place = None
    if config.halving is not None:
        own, *others = ({gap.step: gap.gap for gap in gaps} for gaps in (compared, *map(yardstick.gaps, peers)))
        place = place_among(own, others, config.halving, num_steps=num_steps, seeds=compared[-1].seeds)
    return _Standing(
        last=compared[-1],
        gaps=counting,
        struck=_struck(counting, margin),
        margin=margin,
        freedom=spread.freedom,
        patience=config.patience,
        place=place,
    )


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
    parts = [f"{_spoken(verdict.gap)} than the baseline at step {verdict.judged_step}{samples}"]
    if verdict.stop and verdict.strikes >= config.patience:
        parts.append(f", {verdict.strikes} evaluations in a row above the margin of {verdict.margin:.2g}")
    elif verdict.strikes:
        parts.append(f", strike {verdict.strikes} of {config.patience}")
    if verdict.rank is not None:
        left = "halving leaves it behind: " if verdict.stop and verdict.strikes < config.patience else ""
        parts.append(f"; {left}number {verdict.rank} of {verdict.ranked} candidates, of which {verdict.kept} go on")
    if verdict.forecast is not None and verdict.judged_step != num_steps:
        parts.append(f"; on this trend {_spoken(verdict.forecast)} at the end")
    return "".join(parts)


def _spoken(gap: float) -> str:
    return f"{abs(gap):.1f} spreads {'worse' if gap > 0 else 'better'}"
